/* CRC-16/CCITT-FALSE: polynomial 1021h, start FFFFh, not reflected; that of "123456789" is 29B1h. */
#ifndef EDGEJOULE_CRC16_H
#define EDGEJOULE_CRC16_H

#include <stdint.h>

enum { CRC16_START = 0xFFFF };

/* Without a table: flash is worth more than the 2 us this takes on an AVR. */
static inline uint16_t crc16_add(uint16_t crc, uint8_t byte)
{
    crc = (uint16_t)((crc >> 8) | (crc << 8));
    crc ^= byte;
    crc ^= (crc & 0xFF) >> 4;
    crc ^= (uint16_t)(crc << 12);
    crc ^= (uint16_t)((crc & 0xFF) << 5);
    return crc;
}

#endif
