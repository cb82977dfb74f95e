#include "eeprom.h"

#include <string.h>

#include "../core/bytes.h"
#include "../core/crc16.h"
#include "../core/hal.h"
#include "flash.h"

enum {
    BYTES = 288, /* as far as the core's ring of power-ups goes */
    RECORD_BYTES = 512,
    PAYLOAD_AT = 4,
    CRC_AT = PAYLOAD_AT + BYTES,
    USED = CRC_AT + 2,
    RECORDS = 2 * FLASH_SECTOR / RECORD_BYTES,
    AREA = FLASH_BYTES - 2 * FLASH_SECTOR,
    QUIET_US = 20000,
    LOOK_US = 1000
};

static uint8_t record[USED]; /* the copy, in its place */
static uint8_t newest;       /* RECORDS - 1 when there is none */
static bool dirty;
static uint32_t touched_at, looked_at;
static enum { IDLE, ERASING, FIRST_PAGE, SECOND_PAGE } phase;

static uint16_t check_of(const uint8_t *bytes)
{
    uint16_t crc = CRC16_START;
    for (uint32_t i = 0; i < CRC_AT; i++)
        crc = crc16_add(crc, bytes[i]);
    return crc;
}

static uint32_t place_of(uint8_t number)
{
    return AREA + (uint32_t)number * RECORD_BYTES;
}

void eeprom_begin(void)
{
    uint8_t found[USED];
    bool any = false;
    flash_begin();
    while (flash_busy()) /* an erasure that a reset left alone */
        ;
    memset(record, 0xFF, sizeof record);
    newest = RECORDS - 1;
    for (uint8_t i = 0; i < RECORDS; i++) {
        flash_read(place_of(i), found, USED);
        if (check_of(found) != get16(found + CRC_AT) || (any && (int32_t)(get32(found) - get32(record)) < 0))
            continue;
        memcpy(record, found, USED);
        newest = i;
        any = true;
    }
}

uint8_t hal_eeprom_read(uint16_t at)
{
    return record[PAYLOAD_AT + at];
}

bool hal_eeprom_ready(void)
{
    return phase == IDLE;
}

void hal_eeprom_write(uint16_t at, uint8_t value)
{
    touched_at = hal_ticks();
    if (record[PAYLOAD_AT + at] == value)
        return;
    record[PAYLOAD_AT + at] = value;
    dirty = true;
}

bool eeprom_pending(void)
{
    return dirty || phase != IDLE;
}

static bool blank(uint8_t place)
{
    uint8_t found[USED];
    flash_read(place_of(place), found, USED);
    for (uint32_t i = 0; i < USED; i++)
        if (found[i] != 0xFF)
            return false;
    return true;
}

static bool begins_sector(uint8_t place)
{
    return place_of(place) % FLASH_SECTOR == 0;
}

/* A place that a power cut spoiled is passed over. The sector that is erased is never that of the newest record: the
 * way to the next one leads out of it. */
static void begin(void)
{
    put(record, get32(record) + 1, 4);
    put(record + CRC_AT, check_of(record), 2);
    do
        newest = (uint8_t)((newest + 1) % RECORDS);
    while (!begins_sector(newest) && !blank(newest));
    dirty = false;
    if (begins_sector(newest)) {
        flash_erase_sector(place_of(newest));
        phase = ERASING;
    } else {
        flash_program(place_of(newest), record, FLASH_PAGE);
        phase = FIRST_PAGE;
    }
}

void eeprom_poll(void)
{
    uint32_t now = hal_ticks();
    if (phase == IDLE) {
        if (dirty && now - touched_at >= QUIET_US)
            begin();
        return;
    }
    if (now - looked_at < LOOK_US)
        return;
    looked_at = now;
    if (flash_busy())
        return;
    switch (phase) {
    case ERASING:
        flash_program(place_of(newest), record, FLASH_PAGE);
        phase = FIRST_PAGE;
        break;
    case FIRST_PAGE:
        flash_program(place_of(newest) + FLASH_PAGE, record + FLASH_PAGE, USED - FLASH_PAGE);
        phase = SECOND_PAGE;
        break;
    default:
        phase = IDLE;
        break;
    }
}
