#include "bridge.h"

#include <string.h>

#include "ina219.h"
#include "queue.h"
#include "scan.h"

enum {
    STATS_US = 1000000,
    HELLO_PATIENCE_US = 100000, /* a HELLO does not wait longer than this for sensors to be set up */
    COMMAND_ROOM = FRAME_ROOM(SYNC_BYTES), /* the longest immediate answer */
    BYTE_US = 20
};

void bridge_begin(struct bridge *bridge)
{
    memset(bridge, 0, sizeof *bridge);
    hal_board(&bridge->board);
    store_load(&bridge->store, bridge->channels);
    if (!bridge->store.uid_set)
        memcpy(bridge->store.uid, bridge->board.default_uid, sizeof bridge->store.uid);
    /* The multiplier is odd, so each of 65536 power-ups has its own number, far from the resets of the others. */
    bridge->boot = bridge->board.cold ? (uint16_t)(store_count_power_up() * 40503u)
                                      : (uint16_t)(bridge->board.warm_boot + 1);
    hal_keep_boot(bridge->boot);
    bridge->profile = PROFILE_BALANCED;
    bridge->sampler.channels = bridge->channels;
    bridge->sampler.active = bridge->sums_of = NOBODY;
    bridge->sampler.count = scan(bridge->channels);
    for (uint8_t i = 0; i < bridge->sampler.count; i++) {
        channel_reset(&bridge->channels[i], i);
        channel_configure(&bridge->channels[i],
                          INA_WITH_PGA(ina_profile(bridge->profile), bridge->channels[i].record.pga));
    }
    bridge->wants_hello = true;
    bridge->hello_since = hal_ticks();
    bridge->stats_at = hal_ticks() + STATS_US;
}

/* A frame is obeyed only when its answer has room and the answer before is out; until then bytes wait in rx_queue. */
static void listen(struct bridge *bridge)
{
    uint8_t byte;
    while (!bridge->command_bytes && rx_take(&byte)) {
        uint8_t line_bytes = bridge->reader.count;
        bridge->command_bytes = frame_read(&bridge->reader, byte);
        if (bridge->command_bytes) {
            /* With more bytes behind it the stamp may be that of a later frame. */
            uint64_t now = hal_now();
            bool last = rx_queue.head == rx_queue.tail;
            uint32_t ago = last ? (uint32_t)now - hal_uart_zero_at() : 0;
            bridge->command_at = now - ago - (uint32_t)(line_bytes + 2) * BYTE_US;
        }
    }
    if (bridge->command_bytes && bridge->greeted && !bridge->wants_hello && !bridge->flush && bridge->sums_of == NOBODY &&
        tx_free() >= COMMAND_ROOM) {
        command_obey(bridge);
        bridge->command_bytes = 0;
    }
}

static void greet(struct bridge *bridge)
{
    bool patient = hal_ticks() - bridge->hello_since < HELLO_PATIENCE_US;
    if (!bridge->wants_hello || (patient && !sampler_settled(&bridge->sampler)) ||
        tx_free() < FRAME_ROOM(HELLO_BYTES) + 1)
        return;
    if (!bridge->greeted) {
        /* Ends whatever a reset cut off. */
        tx_queue.bytes[tx_queue.head] = 0;
        tx_queue.head++;
        bridge->greeted = true;
    }
    bridge->wants_hello = false;
    send_hello(bridge);
}

/* The sensor may fill its next batch while this one goes out, a few bytes at a time. */
static void begin_batch(struct bridge *bridge, uint8_t sensor)
{
    struct batch *batch = &bridge->channels[sensor].batch;
    send_samples_begin(bridge, sensor);
    bridge->row_bytes = (uint8_t)(batch->count * SAMPLE_BYTES);
    bridge->sent_bytes = 0;
    memcpy(bridge->rows, batch->bytes, bridge->row_bytes);
    batch->closed = false;
    batch->count = 0;
}

/* True: no frame is open. */
static bool continue_batch(struct bridge *bridge)
{
    enum { PIECE = 2 * SAMPLE_BYTES };
    uint8_t left = (uint8_t)(bridge->row_bytes - bridge->sent_bytes);
    if (!left)
        return true;
    if (left > PIECE)
        left = PIECE;
    frame_bytes(bridge->rows + bridge->sent_bytes, left);
    bridge->sent_bytes = (uint8_t)(bridge->sent_bytes + left);
    if (bridge->sent_bytes < bridge->row_bytes)
        return false;
    frame_end();
    return true;
}

/* The sums of whole batches: they are set aside with the last batch they cover, and follow it. */
static void set_sums_aside(struct bridge *bridge, uint8_t sensor)
{
    struct channel *channel = &bridge->channels[sensor];
    channel_close_batch(channel);
    bridge->sums = channel->sums;
    bridge->sums_seq = channel->seq;
    bridge->sums_of = sensor;
    channel->wants_stats = false;
    bridge->flush &= (uint8_t)~(1u << sensor);
}

static bool asked(const struct bridge *bridge, uint8_t sensor)
{
    return bridge->channels[sensor].wants_stats || (bridge->flush >> sensor & 1);
}

/* The next sensor after the one before that has a full batch; if none has, one that was asked for its sums. */
static uint8_t next_to_report(const struct bridge *bridge)
{
    uint8_t found = NOBODY;
    uint8_t sensor = bridge->reported;
    for (uint8_t i = 0; i < bridge->sampler.count; i++) {
        if (++sensor >= bridge->sampler.count)
            sensor = 0;
        if (bridge->channels[sensor].batch.closed)
            return sensor;
        if (found == NOBODY && asked(bridge, sensor))
            found = sensor;
    }
    return found;
}

/* With several sensors a batch goes when it is nearly full and the line is free. Otherwise some would fill at the same
 * time, and the next sample would not wait until both are out. */
static uint8_t nearly_full(const struct bridge *bridge)
{
    for (uint8_t i = 0; i < bridge->sampler.count && bridge->sampler.count > 1; i++)
        if (bridge->channels[i].batch.count >= ENOUGH)
            return i;
    return NOBODY;
}

/* False: a batch has opened a frame. */
static bool report(struct bridge *bridge)
{
    if ((int32_t)(hal_ticks() - bridge->stats_at) >= 0) {
        bridge->stats_at += STATS_US;
        for (uint8_t i = 0; i < bridge->sampler.count; i++)
            bridge->channels[i].wants_stats = bridge->channels[i].check_due = true;
    }
    if (bridge->sums_of != NOBODY) {
        send_stats(bridge);
        bridge->sums_of = NOBODY;
    }
    uint8_t room = tx_free();
    uint8_t sensor = next_to_report(bridge);
    if (sensor == NOBODY && room >= FRAME_ROOM(SAMPLES_BYTES)) {
        sensor = nearly_full(bridge);
        if (sensor != NOBODY)
            channel_close_batch(&bridge->channels[sensor]);
    }
    if (sensor == NOBODY)
        return true;
    bool both = asked(bridge, sensor) && room >= FRAME_ROOM(SAMPLES_BYTES) + FRAME_ROOM(STATS_BYTES);
    if (both)
        set_sums_aside(bridge, sensor);
    if (!bridge->channels[sensor].batch.closed || room < FRAME_ROOM(SAMPLES_BYTES))
        return true; /* sums without a batch follow at the next call */
    bridge->reported = sensor;
    begin_batch(bridge, sensor);
    return false;
}

static void send_edges(struct bridge *bridge)
{
    while (bridge->edge_waits || (bridge->edge_waits = hal_marker_take(&bridge->edge))) {
        if (tx_free() < FRAME_ROOM(MARKER_BYTES))
            return;
        send_marker(bridge, &bridge->edge);
        bridge->edge_waits = false;
    }
}

void bridge_poll(struct bridge *bridge)
{
    /* Each byte of a transfer wakes the processor. All else was looked after when the transfer began. */
    if (hal_i2c_status() == I2C_BUSY && rx_queue.head == rx_queue.tail && !bridge->busy)
        return;
    sampler_poll(&bridge->sampler, bridge->profile);
    bridge->busy = !continue_batch(bridge);
    if (bridge->busy)
        return;
    listen(bridge);
    greet(bridge);
    if (bridge->greeted) {
        send_edges(bridge);
        bridge->busy = !report(bridge);
    }
    store_poll();
}

uint16_t bridge_idle_us(const struct bridge *bridge, uint16_t limit_us)
{
    if (bridge->busy || (rx_queue.head != rx_queue.tail && !bridge->command_bytes))
        return 0;
    if (hal_i2c_status() == I2C_BUSY)
        return IDLE_UNTIL_INTERRUPT;
    if (bridge->sampler.active != NOBODY)
        return 0;
    return sampler_idle_us(&bridge->sampler, limit_us);
}
