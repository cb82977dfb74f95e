/* What the bridge says; layouts in protos/bridge/messages.py. */
#include "bridge.h"
#include "ina219.h"
#include "queue.h"

enum { BYTE_US = 20 }; /* 10 bits at 500 kBaud */

static const uint32_t TICK_HZ = 1000000;

void send_hello(const struct bridge *bridge)
{
    const struct board *board = &bridge->board;
    frame_begin();
    frame_u8(0x01);
    frame_bytes((const uint8_t *)"EJPB", 4);
    frame_u8(PROTOCOL_MAJOR);
    frame_u8(PROTOCOL_MINOR);
    frame_u8(board->board);
    frame_u8(FIRMWARE_MAJOR);
    frame_u8(FIRMWARE_MINOR);
    frame_u8(FIRMWARE_PATCH);
    frame_u8((uint8_t)((board->changed ? FLAG_CHANGED : 0) | (bridge->forced ? FLAG_FORCED : 0)));
    frame_bytes(board->git, sizeof board->git);
    frame_bytes(board->build, sizeof board->build);
    frame_bytes(bridge->store.uid, sizeof bridge->store.uid);
    frame_u16(bridge->boot);
    frame_u16(board->boots);
    frame_u8(board->reset_cause);
    frame_u16(board->features | FEATURE_CONFIG | FEATURE_DITHER);
    frame_u32(TICK_HZ);
    frame_u64(hal_now());
    frame_u8(bridge->profile);
    frame_u8(BATCH);
    frame_u8(bridge->sampler.count);
    for (uint8_t i = 0; i < bridge->sampler.count; i++) {
        const struct channel *channel = &bridge->channels[i];
        const struct sensor_record *record = &channel->record;
        frame_u8(record->address);
        frame_u16(channel->seen);
        frame_u8(channel->state);
        frame_u32(record->calibration_id);
        frame_u32(record->shunt_uohm);
        frame_u32((uint32_t)record->offset_nv);
        frame_u32((uint32_t)record->gain_ppm);
        frame_u16(record->day);
    }
    frame_end();
}

void send_samples_begin(const struct bridge *bridge, uint8_t sensor)
{
    const struct batch *batch = &bridge->channels[sensor].batch;
    frame_begin();
    frame_u8(0x02);
    frame_u8(sensor);
    frame_u16(bridge->boot);
    frame_u16(batch->seq);
    frame_u8(batch->after_loss ? 1 : 0);
    frame_u8(batch->profile);
    frame_u8(batch->dt_shift);
    frame_u8(batch->count);
    frame_u32(batch->t0);
}

void send_stats(const struct bridge *bridge)
{
    const struct channel *channel = &bridge->channels[bridge->sums_of];
    const struct sums *sums = &bridge->sums;
    uint16_t overruns = rx_queue.overruns;
    uint16_t rx_errors = (uint16_t)(bridge->reader.damaged + hal_uart_errors() + overruns);
    frame_begin();
    frame_u8(0x03);
    frame_u8(bridge->sums_of);
    frame_u16(bridge->boot);
    frame_u16(bridge->sums_seq);
    frame_u8(channel->state);
    frame_u8(channel->last_error);
    frame_u64(hal_now());
    frame_u64(sums->end);
    frame_u32(sums->samples);
    frame_u64(sums->time);
    frame_u64(sums->charge);
    frame_u64(sums->voltage);
    frame_u64(sums->energy);
    frame_u16(channel->overflows);
    frame_u16(channel->i2c_errors);
    frame_u16(channel->restores);
    frame_u16(channel->tx_dropped);
    frame_u16(rx_errors < bridge->reader.damaged ? 0xFFFF : rx_errors);
    frame_end();
}

void send_sync(const struct bridge *bridge, uint32_t nonce)
{
    /* received: the first byte of the command; sent: the last byte of the answer. So the time on the wire is in
     * neither way, and the short command and the long answer do not look like a slow and a fast way. */
    uint8_t waiting = tx_used();
    frame_begin();
    frame_u8(0x04);
    frame_u16(bridge->boot);
    frame_u32(nonce);
    frame_u64(bridge->command_at);
    frame_u64(hal_now() + (uint32_t)(waiting + FRAME_ROOM(SYNC_BYTES)) * BYTE_US);
    frame_end();
}

void send_ack(const struct bridge *bridge, uint8_t command, uint8_t status)
{
    frame_begin();
    frame_u8(0x05);
    frame_u8(command);
    frame_u8(status);
    frame_u16(bridge->boot);
    frame_end();
}

void send_marker(const struct bridge *bridge, const struct marker_edge *edge)
{
    frame_begin();
    frame_u8(0x06);
    frame_u8(edge->level);
    frame_u16(bridge->boot);
    frame_u16(edge->seq);
    frame_u64(edge->tick);
    frame_end();
}
