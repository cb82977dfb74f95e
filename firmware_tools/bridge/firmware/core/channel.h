/* One sensor on the bridge: its record, its open batch, its sums, and where its conversation stands. */
#ifndef EDGEJOULE_CHANNEL_H
#define EDGEJOULE_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "dither.h"

enum { MAX_SENSORS = 4, BATCH = 16, ENOUGH = 12, SAMPLE_BYTES = 6 };
enum { SENSOR_WORKING = 0, SENSOR_ABSENT = 1, SENSOR_FAILING = 2 };

/* What is kept in the EEPROM for a sensor. */
struct sensor_record {
    uint8_t address; /* 0: none kept */
    uint8_t pga;
    uint32_t calibration_id;
    uint32_t shunt_uohm;
    int32_t offset_nv;
    int32_t gain_ppm;
    uint16_t day;
};

struct sums {
    uint32_t samples;
    uint64_t time, charge, voltage, energy; /* modulo 2^64; charge and energy are signed */
    uint64_t end;                           /* tick of the end of the last sample */
};

struct batch {
    uint8_t bytes[BATCH * SAMPLE_BYTES]; /* as they travel */
    uint32_t t0;
    uint16_t seq;
    uint8_t count;
    uint8_t profile;
    uint8_t dt_shift;
    bool after_loss;
    bool closed; /* waits to be sent; the next sample may overwrite it */
};

/* Steps of the conversation with a sensor: the transfer that comes next, or is under way. */
enum step {
    STEP_PROBE, /* read the canary: has the sensor lost its supply? */
    STEP_SET_CANARY,
    STEP_SEE_CANARY,
    STEP_SET_CONFIG,
    STEP_SEE_CONFIG,
    STEP_POLL, /* from here on samples are made */
    STEP_CHECK_CONFIG,
    STEP_CHECK_CANARY,
    STEP_RESTART
};

struct channel {
    struct sensor_record record;
    uint8_t state;
    uint8_t last_error;

    struct batch batch;
    struct sums sums; /* of all batches, the open one too */
    uint16_t seq;
    uint8_t dt_shift;
    bool lost;

    uint16_t config;    /* as asked for */
    uint16_t written;   /* as last written: with dithered bus resolution */
    uint16_t seen;      /* as read back, with the dither taken out */
    uint32_t nominal_us; /* of a pair of conversions as written */
    bool canary;        /* the canary holds */
    bool worked;        /* it has been set up since boot */
    uint8_t failures;   /* in a row */
    bool pointer_set;   /* to the bus register */
    enum step step;
    uint32_t due;       /* when the step may begin */
    bool check_due;
    bool abandon;       /* the transfer under way belongs to an old setting */
    bool continues;     /* the next sample begins where the last one ended */

    struct dither dither;
    uint16_t pause_us;
    uint16_t scale;      /* measured over nominal conversion time, 2^14 = 1 */
    uint32_t conversion; /* tick at which the running pair of conversions began */
    uint32_t not_before; /* tick at which a poll found no result */
    uint32_t sample_begin, sample_end;
    uint32_t last_end;
    uint16_t bus;
    int16_t shunt;
    uint8_t polls;

    uint16_t overflows, i2c_errors, restores, tx_dropped;
    bool wants_stats;
};

void channel_reset(struct channel *channel, uint8_t number);

/* The configuration that is written next. */
void channel_will_write(struct channel *channel, uint16_t config);

/* A new setting: the open batch is closed, the sensor is set up anew. */
void channel_configure(struct channel *channel, uint16_t config);

/* Adds the sample from sample_begin, or the end of the one before when it continues, to sample_end. */
void channel_add(struct channel *channel, uint8_t profile);

/* Ends the open batch, if it holds anything. The next sample begins a new one. */
void channel_close_batch(struct channel *channel);

/* The next sample does not begin where the last one ended. */
void channel_break(struct channel *channel);

/* Counts that stay at their end. */
void count_up(uint16_t *counter);

#endif
