/* What the host asks; layouts in protos/bridge/commands.py. */
#include <string.h>

#include "bridge.h"
#include "bytes.h"
#include "ina219.h"

enum { DONE = 0, UNKNOWN = 1, REFUSED = 2, BAD_VALUE = 3, NO_ANSWER = 0xFE };
enum { ALL = 0xFF };

static bool sensor_valid(const struct bridge *bridge, uint8_t sensor)
{
    return sensor == ALL || sensor < bridge->sampler.count;
}

/* Bits of the sensors meant; 0 for a number that is none. */
static uint8_t sensors_of(const struct bridge *bridge, uint8_t sensor)
{
    if (!sensor_valid(bridge, sensor))
        return 0;
    return (uint8_t)(sensor == ALL ? (1u << bridge->sampler.count) - 1 : 1u << sensor);
}

static void ask_hello(struct bridge *bridge)
{
    bridge->wants_hello = true;
    bridge->hello_since = hal_ticks();
}

static uint8_t set_profile(struct bridge *bridge, uint8_t profile)
{
    uint16_t config = ina_profile(profile);
    if (!config)
        return BAD_VALUE;
    bridge->profile = profile;
    bridge->forced = false;
    for (uint8_t i = 0; i < bridge->sampler.count; i++)
        sampler_configure(&bridge->sampler, i, INA_WITH_PGA(config, bridge->channels[i].record.pga));
    return DONE;
}

static uint8_t set_config(struct bridge *bridge, const uint8_t *fields)
{
    uint8_t sensors = sensors_of(bridge, fields[0]);
    uint16_t config = get16(fields + 1);
    uint8_t force = fields[3];
    if (!sensors || !ina_config_valid(config) || force > 1)
        return BAD_VALUE;
    if (ina_config_half_blind(config) && !force)
        return REFUSED;
    bridge->profile = PROFILE_OWN;
    bridge->forced = force && ina_config_half_blind(config);
    for (uint8_t i = 0; i < bridge->sampler.count; i++)
        if (sensors >> i & 1)
            sampler_configure(&bridge->sampler, i, config);
    return DONE;
}

static uint8_t set_range(struct bridge *bridge, const uint8_t *fields)
{
    uint8_t sensors = sensors_of(bridge, fields[0]);
    if (!sensors || fields[1] > 3)
        return BAD_VALUE;
    for (uint8_t i = 0; i < bridge->sampler.count; i++) {
        if (!(sensors >> i & 1))
            continue;
        bridge->channels[i].record.pga = fields[1];
        sampler_configure(&bridge->sampler, i, INA_WITH_PGA(bridge->channels[i].config, fields[1]));
    }
    store_save(&bridge->store, bridge->channels, bridge->sampler.count);
    return DONE;
}

static uint8_t set_calibration(struct bridge *bridge, const uint8_t *fields)
{
    uint32_t shunt_uohm = get32(fields + 5);
    if (fields[0] >= bridge->sampler.count || !shunt_uohm)
        return BAD_VALUE;
    struct sensor_record *record = &bridge->channels[fields[0]].record;
    record->calibration_id = get32(fields + 1);
    record->shunt_uohm = shunt_uohm;
    record->offset_nv = (int32_t)get32(fields + 9);
    record->gain_ppm = (int32_t)get32(fields + 13);
    record->day = get16(fields + 17);
    store_save(&bridge->store, bridge->channels, bridge->sampler.count);
    return DONE;
}

static uint8_t set_uid(struct bridge *bridge, const uint8_t *fields)
{
    memcpy(bridge->store.uid, fields, sizeof bridge->store.uid);
    bridge->store.uid_set = true;
    store_save(&bridge->store, bridge->channels, bridge->sampler.count);
    return DONE;
}

static uint8_t restart(struct bridge *bridge, uint16_t key)
{
    switch (key) {
    case 0xB007:
        hal_restart(RESTART_NOW);
        return NO_ANSWER;
    case 0xDEAD:
        if (!(bridge->board.features & FEATURE_HANG))
            return REFUSED;
        hal_restart(RESTART_BY_WATCHDOG);
        return NO_ANSWER;
    case 0xB00D:
        if (!(bridge->board.features & FEATURE_BOOTLOADER))
            return REFUSED;
        hal_restart(RESTART_IN_BOOTLOADER);
        return NO_ANSWER;
    default:
        return REFUSED;
    }
}

/* Bytes of each command with its type, from 81h on. */
static const uint8_t LENGTHS[] = {1, 5, 2, 2, 3, 20, 5, 3, 9};

void command_obey(struct bridge *bridge)
{
    const uint8_t *payload = bridge->reader.held;
    const uint8_t *fields = payload + 1;
    uint8_t number = (uint8_t)(payload[0] - 0x81);
    uint8_t status;
    if (number >= sizeof LENGTHS || bridge->command_bytes < LENGTHS[number]) {
        send_ack(bridge, payload[0], UNKNOWN);
        return;
    }
    switch (payload[0]) {
    case 0x81:
        ask_hello(bridge);
        return;
    case 0x82:
        send_sync(bridge, get32(fields));
        return;
    case 0x83:
        status = set_profile(bridge, fields[0]);
        break;
    case 0x84:
        bridge->flush = sensors_of(bridge, fields[0]);
        if (bridge->flush)
            return;
        status = BAD_VALUE;
        break;
    case 0x85:
        status = restart(bridge, get16(fields));
        break;
    case 0x86:
        status = set_calibration(bridge, fields);
        break;
    case 0x87:
        status = set_config(bridge, fields);
        break;
    case 0x88:
        status = set_range(bridge, fields);
        break;
    default:
        status = set_uid(bridge, fields);
        break;
    }
    if (status == NO_ANSWER)
        return;
    send_ack(bridge, payload[0], status);
    if (status == DONE)
        ask_hello(bridge);
}
