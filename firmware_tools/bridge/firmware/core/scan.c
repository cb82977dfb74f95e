#include "scan.h"

#include "hal.h"
#include "ina219.h"

enum { FIRST_ADDRESS = 0x40, LAST_ADDRESS = 0x4F, TIMEOUTS_MAX = 2 };

static uint8_t probe(uint8_t address)
{
    uint8_t status;
    hal_i2c_read(address, INA_CONFIG);
    while ((status = hal_i2c_status()) == I2C_BUSY)
        ;
    return status;
}

static bool known(const struct channel *channels, uint8_t count, uint8_t address)
{
    for (uint8_t i = 0; i < count; i++)
        if (channels[i].record.address == address)
            return true;
    return false;
}

static void fresh(struct sensor_record *record, uint8_t address)
{
    static const struct sensor_record NEW = {.pga = 1, .shunt_uohm = 100000};
    *record = NEW;
    record->address = address;
}

uint8_t scan(struct channel *channels)
{
    uint8_t count = 0, timeouts = 0;
    while (count < MAX_SENSORS && channels[count].record.address)
        count++;
    for (uint8_t address = FIRST_ADDRESS; address <= LAST_ADDRESS && count < MAX_SENSORS; address++) {
        if (known(channels, count, address))
            continue;
        uint8_t status = probe(address);
        if (status == I2C_OK)
            fresh(&channels[count++].record, address);
        else if (status == I2C_TIMEOUT && ++timeouts == TIMEOUTS_MAX)
            break; /* the bus is stuck: each further address would take as long */
    }
    if (!count)
        fresh(&channels[count++].record, FIRST_ADDRESS);
    return count;
}
