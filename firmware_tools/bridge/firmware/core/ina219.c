#include "ina219.h"

static const uint16_t CONVERSION_10US[8] = {53, 106, 213, 426, 851, 1702, 3405, 6810}; /* codes 8..15 */
static const uint16_t SINGLE_US[4] = {84, 148, 276, 532};                             /* codes 0..3 */

uint32_t ina_conversion_us(uint8_t code)
{
    if (code < 8 || code == 8)
        return SINGLE_US[code == 8 ? 3 : code & 3];
    return (uint32_t)CONVERSION_10US[code - 8] * 10;
}

uint32_t ina_period_us(uint16_t config)
{
    return ina_conversion_us(INA_BADC(config)) + ina_conversion_us(INA_SADC(config));
}

uint16_t ina_profile(uint8_t profile)
{
    switch (profile) {
    case PROFILE_ENERGY:
        return 3 << 7 | 12 << 3 | 7;
    case PROFILE_BALANCED:
        return 3 << 7 | 11 << 3 | 7;
    case PROFILE_TRANSIENT:
        return 1 << 7 | 3 << 3 | 7;
    default:
        return 0;
    }
}

bool ina_config_valid(uint16_t config)
{
    return (config & 0xC000) == 0 && (config & 7) == 7;
}

static bool twelve_bits(uint8_t code)
{
    return code == 8 || (code < 8 && (code & 3) == 3);
}

bool ina_config_half_blind(uint16_t config)
{
    return twelve_bits(INA_BADC(config)) && twelve_bits(INA_SADC(config));
}
