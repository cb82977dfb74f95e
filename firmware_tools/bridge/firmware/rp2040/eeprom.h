/* The record of the core, kept in the last two sectors of the flash.
 *
 * The core reads and writes single bytes of a copy in RAM. When it has been quiet for a while the copy is written behind
 * the record before, 512 bytes each; a sector is erased only when the other one is full. So a power cut leaves the
 * record before as it was.
 *
 *     record   number u32 | the bytes of the core | CRC-16 of all before */
#ifndef EDGEJOULE_RP2040_EEPROM_H
#define EDGEJOULE_RP2040_EEPROM_H

#include <stdbool.h>

void eeprom_begin(void);

/* One step of what is to be written, if it is time for it. */
void eeprom_poll(void);

/* Something is still to be written. */
bool eeprom_pending(void);

#endif
