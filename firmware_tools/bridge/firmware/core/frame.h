/* Frames 00 COBS(payload CRC) 00: written byte by byte into the send queue, read byte by byte from the line.
 * The format is drawn in protos/bridge/framing.py. */
#ifndef EDGEJOULE_FRAME_H
#define EDGEJOULE_FRAME_H

#include <stdbool.h>
#include <stdint.h>

/* Room a payload takes on the line: two delimiters, one code byte, the CRC. Payloads stay under 252 bytes. */
#define FRAME_ROOM(payload) ((payload) + 5)

/* A writer may only be opened when tx_free() is at least FRAME_ROOM of what will be put. Nothing is sent before
 * frame_end. */
void frame_begin(void);
void frame_u8(uint8_t value);
void frame_u16(uint16_t value);
void frame_u32(uint32_t value);
void frame_u64(uint64_t value);
void frame_bytes(const uint8_t *bytes, uint8_t count);
void frame_end(void);

/* Longest command payload, with room for fields that a later minor version appends. */
enum { COMMAND_MAX = 40 };

struct frame_reader {
    uint8_t held[COMMAND_MAX + 3];
    uint8_t count;
    bool in_step;  /* a delimiter was seen */
    bool too_long; /* skip to the next delimiter */
    uint16_t damaged;
};

/* Takes one byte of the line. Length of the checked payload, which is then at the begin of reader->held until the
 * next call; 0 when no frame ended, or a damaged one. */
uint8_t frame_read(struct frame_reader *reader, uint8_t byte);

#endif
