/* What survives a power cut: calibration, range and uid in two slots, of which the newer valid one counts; and a
 * counter of power-ups in a ring. One byte is written at a time, while the bridge works on.
 *
 *     slot (0, 128)   version u8 | generation u16 | uid u8[8] | 4 times sensor (20 bytes) | CRC-16 of all before
 *     sensor          address u8 (0: none) | pga u8 | calibration id u32 | shunt_uohm u32 | offset_nv i32 |
 *                     gain_ppm i32 | day u16
 *     ring (256)      8 times: count u16 | CRC-16
 *
 * A cut while a slot is written leaves its CRC wrong and the other slot as it was. */
#ifndef EDGEJOULE_STORE_H
#define EDGEJOULE_STORE_H

#include "channel.h"

struct store {
    uint8_t uid[8];
    bool uid_set;
};

/* Reads the newest record into uid and the channels' records; addresses are 0 where none is kept. */
void store_load(struct store *store, struct channel *channels);

/* Begins to write the present state into the older slot; begins again when it was writing already. */
void store_save(const struct store *store, const struct channel *channels, uint8_t count);

/* Counts one power-up and returns the count. */
uint16_t store_count_power_up(void);

/* Writes one more byte, if the EEPROM is ready. True while there is something to write. */
bool store_poll(void);

#endif
