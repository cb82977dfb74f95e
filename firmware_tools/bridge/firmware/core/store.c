#include "store.h"

#include <string.h>

#include "bytes.h"
#include "crc16.h"
#include "hal.h"

enum {
    VERSION = 1,
    SENSOR_BYTES = 20,
    UID_AT = 3,
    SENSORS_AT = UID_AT + 8,
    CRC_AT = SENSORS_AT + MAX_SENSORS * SENSOR_BYTES,
    SLOT_BYTES = CRC_AT + 2,
    SLOT_STEP = 128,
    RING_AT = 256,
    RING_SLOTS = 8,
    RING_BYTES = 4
};

static struct {
    const struct store *store; /* what is being written; NULL: nothing */
    const struct channel *channels;
    uint8_t count;
    uint8_t done;
    uint16_t crc;
    uint8_t counter[RING_BYTES]; /* written first */
    uint8_t counter_done;
    uint16_t counter_at;
    uint16_t generation;
    uint8_t newest; /* slot that holds it */
} writer = {.counter_done = RING_BYTES};

static uint16_t crc_of(const uint8_t *bytes, uint8_t count)
{
    uint16_t crc = CRC16_START;
    while (count--)
        crc = crc16_add(crc, *bytes++);
    return crc;
}

static bool read_checked(uint16_t at, uint8_t *bytes, uint8_t count)
{
    for (uint8_t i = 0; i < count; i++)
        bytes[i] = hal_eeprom_read((uint16_t)(at + i));
    return crc_of(bytes, (uint8_t)(count - 2)) == get16(bytes + count - 2);
}

static void unpack(const uint8_t *at, struct sensor_record *record)
{
    record->address = at[0];
    record->pga = at[1] & 3;
    record->calibration_id = get32(at + 2);
    record->shunt_uohm = get32(at + 6);
    record->offset_nv = (int32_t)get32(at + 10);
    record->gain_ppm = (int32_t)get32(at + 14);
    record->day = get16(at + 18);
}

static void pack(uint8_t *at, const struct sensor_record *record)
{
    at = put(at, record->address, 1);
    at = put(at, record->pga, 1);
    at = put(at, record->calibration_id, 4);
    at = put(at, record->shunt_uohm, 4);
    at = put(at, (uint32_t)record->offset_nv, 4);
    at = put(at, (uint32_t)record->gain_ppm, 4);
    put(at, record->day, 2);
}

void store_load(struct store *store, struct channel *channels)
{
    uint8_t image[SLOT_BYTES];
    bool found = false;
    memset(&writer, 0, sizeof writer);
    writer.counter_done = RING_BYTES;
    writer.newest = 1;
    for (uint8_t slot = 0; slot < 2; slot++) {
        if (!read_checked((uint16_t)(slot * SLOT_STEP), image, SLOT_BYTES) || image[0] != VERSION)
            continue;
        uint16_t generation = get16(image + 1);
        if (found && (int16_t)(generation - writer.generation) < 0)
            continue;
        found = true;
        writer.generation = generation;
        writer.newest = slot;
        memcpy(store->uid, image + UID_AT, sizeof store->uid);
        store->uid_set = true;
        for (uint8_t i = 0; i < MAX_SENSORS; i++)
            unpack(image + SENSORS_AT + i * SENSOR_BYTES, &channels[i].record);
    }
}

void store_save(const struct store *store, const struct channel *channels, uint8_t count)
{
    writer.store = store;
    writer.channels = channels;
    writer.count = count;
    writer.done = 0;
    writer.crc = CRC16_START;
}

uint16_t store_count_power_up(void)
{
    uint8_t entry[RING_BYTES];
    uint16_t count = 0;
    uint8_t newest = RING_SLOTS - 1;
    bool found = false;
    for (uint8_t slot = 0; slot < RING_SLOTS; slot++) {
        if (!read_checked((uint16_t)(RING_AT + slot * RING_BYTES), entry, RING_BYTES))
            continue;
        if (!found || (int16_t)(get16(entry) - count) > 0) {
            found = true;
            count = get16(entry);
            newest = slot;
        }
    }
    count++;
    put(writer.counter, count, 2);
    put(writer.counter + 2, crc_of(writer.counter, 2), 2);
    writer.counter_at = (uint16_t)(RING_AT + (newest + 1) % RING_SLOTS * RING_BYTES);
    writer.counter_done = 0;
    return count;
}

/* Byte of the slot that is being written. A change meanwhile starts the writing anew, so no record is torn. */
static uint8_t slot_byte(uint8_t at)
{
    uint8_t record[SENSOR_BYTES];
    if (at == 0)
        return VERSION;
    if (at < UID_AT) {
        put(record, (uint16_t)(writer.generation + 1), 2);
        return record[at - 1];
    }
    if (at < SENSORS_AT)
        return writer.store->uid[at - UID_AT];
    if (at >= CRC_AT)
        return (uint8_t)(at == CRC_AT ? writer.crc : writer.crc >> 8);
    uint8_t sensor = (uint8_t)((at - SENSORS_AT) / SENSOR_BYTES);
    if (sensor >= writer.count)
        return 0;
    pack(record, &writer.channels[sensor].record);
    return record[(at - SENSORS_AT) % SENSOR_BYTES];
}

bool store_poll(void)
{
    bool counting = writer.counter_done < RING_BYTES;
    if (!counting && !writer.store)
        return false;
    if (!hal_eeprom_ready())
        return true;
    if (counting) {
        hal_eeprom_write((uint16_t)(writer.counter_at + writer.counter_done), writer.counter[writer.counter_done]);
        writer.counter_done++;
        return true;
    }
    uint8_t byte = slot_byte(writer.done);
    if (writer.done < CRC_AT)
        writer.crc = crc16_add(writer.crc, byte);
    hal_eeprom_write((uint16_t)((writer.newest ^ 1) * SLOT_STEP + writer.done), byte);
    if (++writer.done == SLOT_BYTES) {
        writer.generation++;
        writer.newest ^= 1;
        writer.store = NULL;
    }
    return true;
}
