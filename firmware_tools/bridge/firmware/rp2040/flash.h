/* The serial flash by its own commands. The program does not run from it, so nothing has to wait while it is busy. */
#ifndef EDGEJOULE_RP2040_FLASH_H
#define EDGEJOULE_RP2040_FLASH_H

#include <stdbool.h>
#include <stdint.h>

enum { FLASH_BYTES = 2 << 20, FLASH_SECTOR = 4096, FLASH_PAGE = 256 };

void flash_begin(void);
void flash_read(uint32_t at, uint8_t *bytes, uint32_t count);
void flash_uid(uint8_t uid[8]);
bool flash_busy(void);

/* Both return at once; the flash is busy for up to 0.4 s, up to 3 ms. */
void flash_erase_sector(uint32_t at);
void flash_program(uint32_t at, const uint8_t *bytes, uint32_t count); /* within a page */

#endif
