#include "dither.h"

#include "ina219.h"

/* Shorter samples than this run on for a while: a restart costs about 0.1 ms of the I2C bus. */
enum { LONG_SAMPLE_US = 3000, GROUP_MIN = 16, KEEP_MASK = 7 };

static uint16_t draw(struct dither *dither)
{
    dither->random = dither->random * 1664525u + 1013904223u; /* Numerical Recipes; the high half is the good one */
    return (uint16_t)(dither->random >> 16);
}

void dither_seed(struct dither *dither, uint8_t sensor)
{
    dither->random = 0x2545F491u * (sensor + 1u);
    dither->left = 1;
}

void dither_fit(struct dither *dither, uint16_t config)
{
    uint32_t period_us = ina_period_us(config);
    dither->grouped = period_us < LONG_SAMPLE_US;
    dither->pause_us = dither->grouped ? 0 : (uint16_t)(period_us / 15);
    dither->bus_code = INA_BADC(config);
    dither->left = 1;
}

/* Ten bits alone may be wrong by 8 mV, 0.16 % of 5 V, in each sample alike. So they stand for one part of ten and three
 * of eleven; eleven and twelve for both by halves. */
static uint8_t bus_code(struct dither *dither, uint8_t code)
{
    uint16_t drawn = draw(dither);
    switch (code) {
    case 1:
        return drawn & 0xC000 ? 2 : 1;
    case 2:
    case 3:
        return drawn & 0x8000 ? 2 : 3;
    default:
        return code;
    }
}

bool dither_ends_group(const struct dither *dither)
{
    return dither->left == 1;
}

bool dither_restart(struct dither *dither, uint16_t config, uint16_t *pause_us, uint16_t *written)
{
    if (--dither->left)
        return false;
    dither->left = dither->grouped ? (uint8_t)(GROUP_MIN + (draw(dither) >> 11)) : 1;
    *pause_us = (uint16_t)((uint32_t)draw(dither) * dither->pause_us >> 16);
    if (!(draw(dither) >> 8 & KEEP_MASK))
        dither->bus_code = bus_code(dither, INA_BADC(config));
    *written = INA_WITH_BADC(config, dither->bus_code);
    return true;
}
