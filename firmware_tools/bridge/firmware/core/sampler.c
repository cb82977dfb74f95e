#include "sampler.h"

#include <stddef.h>

#include "hal.h"
#include "ina219.h"

enum {
    RETRY_SOON_US = 2000,
    RETRY_US = 50000,
    FAILURES_UNTIL_DOWN = 3,
    LEAD_US = 95,  /* from the begin of a poll to the moment whose state it tells */
    LATCH_US = 50, /* from that moment to the end of its first read: two bytes on the bus */
    LATE_US = 40,
    SLOWEST = 0x5400, /* 1.31 and 0.80 of nominal; the data sheet allows 1.1 and 0.9 */
    FASTEST = 0x3340
};

static uint32_t expected_us(const struct channel *channel)
{
    return (channel->nominal_us * channel->scale) >> 14;
}

static void go(struct channel *channel, enum step step, uint32_t due)
{
    channel->step = step;
    channel->due = due;
}

static void fail(struct channel *channel, uint8_t error, uint32_t now)
{
    count_up(&channel->i2c_errors);
    channel->last_error = error;
    channel->pointer_set = false;
    channel_close_batch(channel);
    channel_break(channel);
    if (channel->failures < FAILURES_UNTIL_DOWN)
        channel->failures++;
    if (channel->failures >= FAILURES_UNTIL_DOWN) {
        bool nobody = error == I2C_ADDRESS_NACK || error == I2C_ADDRESS_NACK_READ;
        uint8_t state = nobody ? SENSOR_ABSENT : SENSOR_FAILING;
        if (state != channel->state)
            channel->wants_stats = true;
        channel->state = state;
    }
    go(channel, STEP_PROBE, now + (channel->failures >= FAILURES_UNTIL_DOWN ? RETRY_US : RETRY_SOON_US));
}

/* Conversions have begun anew at ``tick``. */
static void converting(struct channel *channel, uint32_t tick)
{
    channel->conversion = tick;
    channel->polls = 0;
}

static void await(struct channel *channel)
{
    go(channel, STEP_POLL, channel->conversion + expected_us(channel) - LEAD_US);
}

/* The bus was held by other transfers: that the result is there by now says nothing of when it came, and another may
 * have come after it. */
static bool asked_late(const struct channel *channel, uint32_t seen)
{
    return channel->polls == 1 && (int32_t)(seen - channel->conversion - expected_us(channel)) > LATE_US;
}

/* Follows the sensor's own clock, so that the result is asked for when it is there: half of the samples at the first
 * time of asking, half at the second. */
static void learn(struct channel *channel)
{
    uint16_t scale = channel->scale;
    if (channel->polls == 1)
        scale = (uint16_t)(scale - (scale >> 9));
    else if (channel->polls <= 6)
        scale = (uint16_t)(scale + (channel->polls - 1) * (scale >> 9));
    else
        scale = (uint16_t)(((channel->sample_end - channel->conversion) << 8) /
                           (channel->nominal_us >> 6));
    channel->scale = scale < FASTEST ? FASTEST : scale > SLOWEST ? SLOWEST : scale;
}

/* When the conversions ended: where the sensor's own clock puts it, within what the polls leave open. Better than the
 * time of asking, which would shorten one sample and lengthen the next by 0.1 ms. */
static uint32_t ended_at(const struct channel *channel, uint32_t seen, bool late)
{
    uint32_t period_us = expected_us(channel);
    uint32_t end = channel->conversion + period_us;
    if (late && seen - end < 0x10000)
        while ((int32_t)(seen - end) > (int32_t)period_us)
            end += period_us;
    if ((int32_t)(end - seen) > 0 || (int32_t)(seen - end) > (int32_t)period_us)
        return seen;
    if (channel->polls > 1 && (int32_t)(end - channel->not_before) < 0)
        return channel->not_before;
    return end;
}

static void polled(struct channel *channel, uint16_t bus, uint32_t now)
{
    uint32_t seen = now - LATCH_US;
    channel->polls += channel->polls != 0xFF;
    if (!(bus & INA_READY)) {
        channel->not_before = seen;
        if (now - channel->conversion > 2 * channel->nominal_us + 20000)
            fail(channel, I2C_NO_RESULT, now);
        else
            go(channel, STEP_POLL, now);
        return;
    }
    channel->pointer_set = false;
    channel->bus = bus;
    channel->shunt = (int16_t)hal_i2c_shunt();
    channel->sample_begin = channel->conversion;
    bool late = asked_late(channel, seen);
    channel->sample_end = ended_at(channel, seen, late);
    channel->failures = 0;
    if (channel->state != SENSOR_WORKING) {
        channel->state = SENSOR_WORKING;
        channel->wants_stats = true;
    }
    if (!late)
        learn(channel);
    uint16_t pause_us, next;
    if (dither_restart(&channel->dither, channel->config, &pause_us, &next)) {
        channel_will_write(channel, next);
        if (channel->check_due)
            go(channel, STEP_CHECK_CONFIG, now);
        else
            go(channel, STEP_RESTART, now + pause_us);
    } else {
        /* The conversions went on by themselves: the next pair began when this one ended. */
        converting(channel, channel->sample_end);
        await(channel);
    }
}

/* The sensor forgot what it was told: it lost its supply for a moment. */
static void restore(struct channel *channel, uint32_t now)
{
    count_up(&channel->restores);
    channel_close_batch(channel);
    channel_break(channel);
    go(channel, STEP_SET_CANARY, now);
}

/* The step is done: what follows. */
static void advance(struct channel *channel, uint16_t word, uint32_t now)
{
    switch (channel->step) {
    case STEP_PROBE:
        if (channel->worked && channel->canary && word != INA_CANARY)
            restore(channel, now);
        else
            go(channel, STEP_SET_CANARY, now);
        break;
    case STEP_SET_CANARY:
        go(channel, STEP_SEE_CANARY, now);
        break;
    case STEP_SEE_CANARY:
        channel->canary = word == INA_CANARY;
        channel_will_write(channel, channel->config);
        go(channel, STEP_SET_CONFIG, now);
        break;
    case STEP_SET_CONFIG:
        converting(channel, now);
        go(channel, STEP_SEE_CONFIG, now);
        break;
    case STEP_SEE_CONFIG:
        channel->seen = word;
        channel->worked = true;
        if (word == channel->written)
            await(channel);
        else
            fail(channel, I2C_MISMATCH, now);
        break;
    case STEP_POLL:
        polled(channel, word, now);
        break;
    case STEP_CHECK_CONFIG:
        /* What was written last differs from what will be in the resolution of the bus voltage alone. */
        channel->check_due = false;
        if (INA_WITH_BADC(word ^ channel->config, 0))
            restore(channel, now);
        else
            go(channel, channel->canary ? STEP_CHECK_CANARY : STEP_RESTART, now);
        break;
    case STEP_CHECK_CANARY:
        if (word == INA_CANARY)
            go(channel, STEP_RESTART, now);
        else
            restore(channel, now);
        break;
    case STEP_RESTART:
        converting(channel, now);
        await(channel);
        break;
    }
}

static void begin(struct channel *channel)
{
    uint8_t address = channel->record.address;
    bool in_place = channel->pointer_set;
    channel->pointer_set = channel->step == STEP_POLL;
    switch (channel->step) {
    case STEP_POLL:
        hal_i2c_poll(address, !in_place, !dither_ends_group(&channel->dither));
        break;
    case STEP_PROBE:
    case STEP_SEE_CANARY:
    case STEP_CHECK_CANARY:
        hal_i2c_read(address, INA_CALIBRATION);
        break;
    case STEP_SEE_CONFIG:
    case STEP_CHECK_CONFIG:
        hal_i2c_read(address, INA_CONFIG);
        break;
    case STEP_SET_CANARY:
        hal_i2c_write(address, INA_CALIBRATION, INA_CANARY);
        break;
    case STEP_SET_CONFIG:
    case STEP_RESTART:
        hal_i2c_write(address, INA_CONFIG, channel->written);
        break;
    }
}

static bool due(const struct channel *channel, uint32_t now)
{
    return (int32_t)(now - channel->due) >= 0;
}

static void transfer(struct sampler *sampler)
{
    uint8_t status = hal_i2c_status();
    if (status == I2C_BUSY)
        return;
    if (sampler->active != NOBODY) {
        struct channel *channel = &sampler->channels[sampler->active];
        sampler->active = NOBODY;
        if (channel->abandon) {
            channel->abandon = false;
        } else if (status != I2C_OK) {
            fail(channel, status, hal_i2c_ended());
        } else {
            uint16_t word = hal_i2c_word();
            if (channel->step == STEP_POLL && (word & INA_READY))
                sampler->read = channel;
            advance(channel, word, hal_i2c_ended());
        }
    }
    uint32_t now = hal_ticks();
    uint8_t next = sampler->turn;
    for (uint8_t i = 0; i < sampler->count; i++) {
        if (++next >= sampler->count)
            next = 0;
        if (due(&sampler->channels[next], now)) {
            sampler->turn = sampler->active = next;
            begin(&sampler->channels[next]);
            return;
        }
    }
}

void sampler_poll(struct sampler *sampler, uint8_t profile)
{
    transfer(sampler);
    if (sampler->read) {
        channel_add(sampler->read, profile);
        sampler->read = NULL;
    }
}

void sampler_configure(struct sampler *sampler, uint8_t number, uint16_t config)
{
    struct channel *channel = &sampler->channels[number];
    channel_configure(channel, config);
    channel->abandon = sampler->active == number;
}

uint16_t sampler_idle_us(const struct sampler *sampler, uint16_t limit_us)
{
    uint32_t now = hal_ticks();
    for (uint8_t i = 0; i < sampler->count; i++) {
        if (due(&sampler->channels[i], now))
            return 0;
        uint32_t left_us = sampler->channels[i].due - now;
        if (left_us < limit_us)
            limit_us = (uint16_t)left_us;
    }
    return limit_us;
}

bool sampler_settled(const struct sampler *sampler)
{
    for (uint8_t i = 0; i < sampler->count; i++) {
        const struct channel *channel = &sampler->channels[i];
        if (channel->step < STEP_POLL && channel->failures < FAILURES_UNTIL_DOWN)
            return false;
    }
    return true;
}
