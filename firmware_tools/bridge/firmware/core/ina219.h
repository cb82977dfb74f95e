/* The INA219 as the bridge uses it: registers, conversion times, profiles (data sheet SBOS448). */
#ifndef EDGEJOULE_INA219_H
#define EDGEJOULE_INA219_H

#include <stdbool.h>
#include <stdint.h>

enum { INA_CONFIG = 0, INA_SHUNT = 1, INA_BUS = 2, INA_POWER = 3, INA_CALIBRATION = 5 };
enum { INA_READY = 2 }; /* CNVR, in the bus register */

/* The chip's own calibration is not used. It is written because a sensor that lost its supply forgets it, while its
 * configuration is written again with nearly each sample. Small, so that the chip's arithmetic never overflows. */
enum { INA_CANARY = 0x0002 };

#define INA_PGA(config) ((uint8_t)((config) >> 11 & 3))
#define INA_BADC(config) ((uint8_t)((config) >> 7 & 15))
#define INA_SADC(config) ((uint8_t)((config) >> 3 & 15))
#define INA_WITH_PGA(config, pga) ((uint16_t)(((config) & ~0x1800u) | (uint16_t)(pga) << 11))
#define INA_WITH_BADC(config, code) ((uint16_t)(((config) & ~0x0780u) | (uint16_t)(code) << 7))

enum { PROFILE_OWN = 0, PROFILE_ENERGY = 1, PROFILE_BALANCED = 2, PROFILE_TRANSIENT = 3 };

/* Nominal conversion time of an ADC code, us. */
uint32_t ina_conversion_us(uint8_t code);

/* Nominal time of a pair of conversions, us. */
uint32_t ina_period_us(uint16_t config);

/* Configuration of a profile in the 16 V and 40 mV ranges; 0 for an unknown one. */
uint16_t ina_profile(uint8_t profile);

/* Both conversions continuous, no reset bit, no reserved bit. */
bool ina_config_valid(uint16_t config);

/* Twelve bits for both: sees the current half of the time and locks to periodic loads. */
bool ina_config_half_blind(uint16_t config);

#endif
