/* The bridge: what the host says, what it is told, and the sensors. */
#ifndef EDGEJOULE_BRIDGE_H
#define EDGEJOULE_BRIDGE_H

#include "channel.h"
#include "frame.h"
#include "hal.h"
#include "sampler.h"
#include "store.h"

enum { PROTOCOL_MAJOR = 1, PROTOCOL_MINOR = 1 };
enum { FIRMWARE_MAJOR = 0, FIRMWARE_MINOR = 2, FIRMWARE_PATCH = 0 };

/* Bits of HELLO. */
enum { FEATURE_MARKER = 1, FEATURE_PERSISTENT = 2, FEATURE_CONFIG = 4, FEATURE_HANG = 8, FEATURE_BOOTLOADER = 16,
       FEATURE_DITHER = 32 };
enum { FLAG_CHANGED = 1, FLAG_FORCED = 2 };

struct bridge {
    struct board board;
    struct store store;
    struct channel channels[MAX_SENSORS];
    struct sampler sampler;
    struct frame_reader reader;
    uint16_t boot;
    uint8_t profile;
    bool forced;
    bool greeted;         /* the HELLO of this boot was sent */
    bool wants_hello;     /* to be sent when the sensors are set up */
    uint32_t hello_since; /* tick at which it was asked for */
    uint8_t flush;        /* sensors to flush, a bit each */
    uint8_t rows[BATCH * SAMPLE_BYTES]; /* of the batch on its way into the queue */
    uint8_t row_bytes, sent_bytes;
    struct sums sums;      /* to be sent when that batch is out */
    uint16_t sums_seq;
    uint8_t sums_of;       /* sensor, NOBODY */
    uint8_t reported;      /* sensor whose turn was last */
    bool busy;            /* something waits for room or for its turn */
    uint32_t stats_at;
    uint8_t command_bytes; /* a command waits in the reader */
    uint64_t command_at;   /* tick at which it began to arrive */
    struct marker_edge edge;
    bool edge_waits;
};

/* Once after reset. */
void bridge_begin(struct bridge *bridge);

/* Whatever is to be done now; to be called again and again. */
void bridge_poll(struct bridge *bridge);

/* Microseconds for which there is nothing to do unless an interrupt comes, at most limit_us. */
uint16_t bridge_idle_us(const struct bridge *bridge, uint16_t limit_us);
enum { IDLE_UNTIL_INTERRUPT = 0xFFFF };

/* Obeys the command in the reader. */
void command_obey(struct bridge *bridge);

/* Messages; the caller has seen to room in tx_queue. */
enum { HELLO_BYTES = 54 + MAX_SENSORS * 22, SAMPLES_BYTES = 14 + BATCH * SAMPLE_BYTES, STATS_BYTES = 70,
       SYNC_BYTES = 23, ACK_BYTES = 5, MARKER_BYTES = 14 };
void send_hello(const struct bridge *bridge);
/* A batch takes about 1 ms to stuff, as long as a conversion, so it goes piece by piece. */
void send_samples_begin(const struct bridge *bridge, uint8_t sensor);
void send_stats(const struct bridge *bridge); /* the sums that were set aside */
void send_sync(const struct bridge *bridge, uint32_t nonce);
void send_ack(const struct bridge *bridge, uint8_t command, uint8_t status);
void send_marker(const struct bridge *bridge, const struct marker_edge *edge);

#endif
