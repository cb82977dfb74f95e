#include "channel.h"

#include <string.h>

#include "bytes.h"
#include "hal.h"
#include "ina219.h"

/* Widest oscillator error, +12 %, and a missed conversion on top must fit dt. */
static uint8_t shift_for(uint16_t config)
{
    uint32_t longest_us = ina_period_us(config) * 5 / 4;
    uint8_t shift = 0;
    while (longest_us >> shift > 0xFFFF)
        shift++;
    return shift;
}

void count_up(uint16_t *counter)
{
    if (*counter != 0xFFFF)
        (*counter)++;
}

void channel_reset(struct channel *channel, uint8_t number)
{
    struct sensor_record record = channel->record;
    memset(channel, 0, sizeof *channel);
    channel->record = record;
    dither_seed(&channel->dither, number);
}

void channel_configure(struct channel *channel, uint16_t config)
{
    channel_close_batch(channel);
    channel_break(channel);
    channel->config = channel->seen = config;
    channel_will_write(channel, config);
    channel->dt_shift = shift_for(config);
    dither_fit(&channel->dither, config);
    channel->scale = (uint16_t)(7u << 11); /* 7/8: the fastest that the data sheet allows, and a little */
    channel->step = STEP_PROBE;
    channel->due = hal_ticks();
}

void channel_will_write(struct channel *channel, uint16_t config)
{
    channel->written = config;
    channel->nominal_us = ina_period_us(config);
}

void channel_break(struct channel *channel)
{
    channel->continues = false;
}

void channel_close_batch(struct channel *channel)
{
    struct batch *batch = &channel->batch;
    if (!batch->count || batch->closed)
        return;
    batch->closed = true;
    batch->seq = channel->seq++;
    batch->after_loss = channel->lost;
    channel->lost = false;
}

static void sum_up(struct sums *sums, uint32_t dt_us, int16_t shunt, uint16_t bus)
{
    uint16_t steps = bus >> 3;
    sums->samples++;
    sums->time += dt_us;
    sums->charge += (uint64_t)((int64_t)shunt * dt_us);
    sums->voltage += (uint64_t)steps * dt_us;
    sums->energy += (uint64_t)((int64_t)((int32_t)shunt * (int32_t)steps) * dt_us);
    sums->end += dt_us;
}

void channel_add(struct channel *channel, uint8_t profile)
{
    struct batch *batch = &channel->batch;
    uint8_t shift = channel->dt_shift;
    uint32_t begin = channel->continues ? channel->last_end : channel->sample_begin;
    uint32_t dt = (channel->sample_end - begin) >> shift;
    if (dt > 0xFFFF) { /* other sensors or the bus held it up: what lies between stays unknown */
        channel_close_batch(channel);
        channel_break(channel);
        begin = channel->sample_begin;
        dt = (channel->sample_end - begin) >> shift;
        if (dt > 0xFFFF)
            return;
    }
    if (batch->closed) { /* nobody took it in time; its energy is in the sums */
        count_up(&channel->tx_dropped);
        batch->closed = false;
        batch->count = 0;
        channel->lost = true;
    }
    if (!batch->count) {
        batch->t0 = begin;
        batch->dt_shift = shift;
        batch->profile = profile;
    }
    if (!channel->continues) {
        uint64_t now = hal_now();
        channel->sums.end = now - (uint32_t)((uint32_t)now - begin);
    }
    uint32_t dt_us = dt << shift; /* what the shift cuts off is carried into the next sample */
    uint8_t *row = batch->bytes + batch->count * SAMPLE_BYTES;
    row = put(row, dt, 2);
    row = put(row, (uint16_t)channel->shunt, 2);
    put(row, channel->bus, 2);
    batch->count++;
    sum_up(&channel->sums, dt_us, channel->shunt, channel->bus);
    if (channel->bus & 1)
        count_up(&channel->overflows);
    channel->last_end = begin + dt_us;
    channel->continues = true;
    if (batch->count == BATCH)
        channel_close_batch(channel);
}
