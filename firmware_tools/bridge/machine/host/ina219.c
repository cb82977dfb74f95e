/*
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Links libsimavr, which is under the GNU General Public License 3. This folder is shipped as source and compiled
 * on the user's machine; a binary made from it is under that licence as a whole.
 */
/*
 * INA219 (data sheet SBOS448): registers, and a conversion engine in true time.
 *
 * The shunt is converted first, then the bus. A conversion's value is the mean over its own window, quantised by
 * resolution; an averaged conversion is the mean of as many quantised ones. The engine is brought up to date when
 * somebody looks. CNVR is set when a pair is finished, cleared by reading the power register or by writing the mode.
 */
#include <math.h>
#include <stdlib.h>

#include "machine.h"

enum { CONFIG, SHUNT_VOLTAGE, BUS_VOLTAGE, POWER, CURRENT, CALIBRATION };

#define SHUNT_STEP_V 10e-6
#define BUS_STEP_V 4e-3

static const double CONVERSION_S[16] = {84e-6,  148e-6, 276e-6,  532e-6,  84e-6,   148e-6,   276e-6,   532e-6,
                                        532e-6, 1.06e-3, 2.13e-3, 4.26e-3, 8.51e-3, 17.02e-3, 34.05e-3, 68.10e-3};

static int averages(int code) { return code > 8 ? 1 << (code - 8) : 1; }
static int coarseness(int code) { return code < 8 ? 1 << (3 - (code & 3)) : 1; }
static int shunt_code(const struct ina219 *s) { return s->config >> 3 & 15; }
static int bus_code(const struct ina219 *s) { return s->config >> 7 & 15; }
static bool continuous(const struct ina219 *s) { return s->config & 4; }
static bool wants_shunt(const struct ina219 *s) { return s->config & 1; }
static bool wants_bus(const struct ina219 *s) { return s->config & 2; }

static void begin(struct ina219 *s, double at_s, int phase) {
    s->phase = phase;
    s->begin_s = at_s;
    s->end_s = at_s + CONVERSION_S[phase == SHUNT ? shunt_code(s) : bus_code(s)] * (1 + s->oscillator);
}

/* First conversion of the mode; none in power-down (0) and ADC off (4). */
static void restart(struct ina219 *s, double at_s) {
    if (wants_shunt(s))
        begin(s, at_s, SHUNT);
    else if (wants_bus(s))
        begin(s, at_s, BUS);
    else
        s->phase = IDLE;
}

void ina219_power_on(struct ina219 *s, double now_s) {
    s->config = 0x399F;
    s->shunt = s->bus = s->power = s->current = s->calibration = 0;
    s->ready = s->overflow = false;
    s->pointer = 0;
    restart(s, now_s);
}

/* How much of the board's current flows through the shunt, from VIN+ to VIN-. */
static double through(const struct ina219 *s) {
    if (s->minus_open || s->bypassed) return 0;
    return s->swapped ? -1 : 1;
}

static int16_t convert_shunt(struct ina219 *s) {
    int code = shunt_code(s), count = averages(code), coarse = coarseness(code);
    int limit = 4000 << (s->config >> 11 & 3);
    double step_v = SHUNT_STEP_V * coarse, span_s = (s->end_s - s->begin_s) / count, sum = 0;
    for (int i = 0; i < count; i++) {
        double from_s = s->begin_s + i * span_s;
        double volts = rail_mean(&s->rail, from_s, from_s + span_s).current_a * s->shunt_ohm * (1 + s->gain);
        volts = through(s) * volts + s->offset_v;
        if (s->noise_v > 0) volts += s->noise_v * random_normal(&s->noise);
        sum += fmax(-limit, fmin(limit, rint(volts / step_v) * coarse));
    }
    return (int16_t)rint(sum / count);
}

static uint16_t convert_bus(struct ina219 *s) {
    int code = bus_code(s), count = averages(code), coarse = coarseness(code);
    int limit = s->config & 0x2000 ? 8000 : 4000;
    double span_s = (s->end_s - s->begin_s) / count, sum = 0;
    for (int i = 0; i < count; i++) {
        double from_s = s->begin_s + i * span_s;
        double volts = rail_mean(&s->rail, from_s, from_s + span_s).voltage_v * (1 + s->bus_gain);
        if (s->minus_open || s->low_side) volts = 0;
        sum += fmax(0, fmin(limit, rint(volts / (BUS_STEP_V * coarse)) * coarse));
    }
    return (uint16_t)((int)rint(sum / count) << 3);
}

static void multiply(struct ina219 *s) {
    int64_t current = (int64_t)(int16_t)s->shunt * s->calibration / 4096;
    int64_t power = llabs(current) * (s->bus >> 3) / 5000;
    s->overflow = llabs(current) > 32767 || power > 65535;
    s->current = (uint16_t)current;
    s->power = (uint16_t)power;
}

void ina219_advance(struct ina219 *s, double now_s) {
    while (s->phase != IDLE && s->end_s <= now_s) {
        double end_s = s->end_s;
        if (s->phase == SHUNT) {
            s->shunt = (uint16_t)convert_shunt(s);
            if (wants_bus(s)) {
                begin(s, end_s, BUS);
                continue;
            }
        } else {
            s->bus = convert_bus(s);
        }
        multiply(s);
        s->ready = true;
        s->conversions++;
        if (continuous(s))
            restart(s, end_s);
        else
            s->phase = IDLE;
    }
}

uint16_t ina219_read(struct ina219 *s, uint8_t number, double now_s) {
    ina219_advance(s, now_s);
    switch (number) {
    case CONFIG: return s->config;
    case SHUNT_VOLTAGE: return s->shunt;
    case BUS_VOLTAGE: return s->bus | (s->ready ? 2 : 0) | (s->overflow ? 1 : 0);
    case POWER: s->ready = false; return s->power;
    case CURRENT: return s->current;
    case CALIBRATION: return s->calibration;
    default: return 0xFFFF;
    }
}

void ina219_write(struct ina219 *s, uint8_t number, uint16_t value, double now_s) {
    ina219_advance(s, now_s);
    if (number == CONFIG && value & 0x8000) {
        uint8_t pointer = s->pointer;
        ina219_power_on(s, now_s);
        s->pointer = pointer;
    } else if (number == CONFIG) {
        s->config = value & 0x3FFF;
        if (value & 3) s->ready = false; /* not by power-down and ADC off ("Conversion Ready") */
        restart(s, now_s);
    } else if (number == CALIBRATION) {
        s->calibration = value & 0xFFFE; /* bit 0 cannot be set */
    }
}
