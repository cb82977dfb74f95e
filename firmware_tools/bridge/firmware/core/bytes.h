/* Little-endian integers in bytes. */
#ifndef EDGEJOULE_BYTES_H
#define EDGEJOULE_BYTES_H

#include <stdint.h>

static inline uint16_t get16(const uint8_t *at)
{
    return (uint16_t)(at[0] | (uint16_t)at[1] << 8);
}

static inline uint32_t get32(const uint8_t *at)
{
    return get16(at) | (uint32_t)get16(at + 2) << 16;
}

/* Writes the lowest bytes of a value; where the next goes. */
static inline uint8_t *put(uint8_t *at, uint32_t value, uint8_t bytes)
{
    for (; bytes; bytes--, value >>= 8)
        *at++ = (uint8_t)value;
    return at;
}

#endif
