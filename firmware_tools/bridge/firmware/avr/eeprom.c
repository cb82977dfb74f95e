/* One byte at a time; a write takes 3.4 ms and goes on by itself. */
#include <avr/eeprom.h>
#include <avr/io.h>
#include <util/atomic.h>

#include "../core/hal.h"

uint8_t hal_eeprom_read(uint16_t at)
{
    return eeprom_read_byte((const uint8_t *)at);
}

bool hal_eeprom_ready(void)
{
    return eeprom_is_ready();
}

void hal_eeprom_write(uint16_t at, uint8_t value)
{
    if (eeprom_read_byte((const uint8_t *)at) == value)
        return;
    EEAR = at;
    EEDR = value;
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE)
    {
        EECR |= _BV(EEMPE); /* EEPE must follow within four cycles */
        EECR |= _BV(EEPE);
    }
}
