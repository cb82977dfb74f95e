/* The core on a workstation: a board of plain memory, built as a shared library and driven from tests. Time moves only
 * when it is told to. Its sensors are a simple model: registers, conversions that end after their nominal time, and
 * the faults that the core must survive. */
#include <string.h>

#include "../core/bridge.h"
#include "../core/ina219.h"
#include "../core/queue.h"
#include "native.h"

enum { EEPROM_BYTES = 1024, TRANSFER_US = 120, TIMEOUT_US = 3000 };

struct model {
    uint8_t address; /* 0: not there */
    bool absent;
    uint16_t config, canary, shunt, bus;
    uint64_t begun;
};

static struct {
    uint64_t now;
    uint8_t eeprom[EEPROM_BYTES];
    uint32_t eeprom_writes;
    uint32_t power_left; /* EEPROM writes until the supply fails; UINT32_MAX: it does not */
    struct model sensors[MAX_SENSORS];
    bool stuck;
    uint8_t status;
    uint16_t word, shunt;
    uint64_t ends, ended;
    uint64_t zero_at;
    uint16_t warm_boot, boots;
    bool cold;
    int restart;
    struct marker_edge edge;
    bool has_edge;
} machine = {.cold = true, .power_left = UINT32_MAX, .restart = -1};

static struct bridge bridge;

/* ---- the board, as the core sees it ---- */

uint64_t hal_now(void)
{
    return machine.now;
}

uint32_t hal_ticks(void)
{
    return (uint32_t)machine.now;
}

static struct model *answering(uint8_t address)
{
    for (int i = 0; i < MAX_SENSORS; i++)
        if (machine.sensors[i].address == address && !machine.sensors[i].absent)
            return &machine.sensors[i];
    return NULL;
}

static void transfer(uint8_t status)
{
    machine.status = machine.stuck ? I2C_TIMEOUT : status;
    machine.ended = machine.ends = machine.now + (machine.stuck ? TIMEOUT_US : TRANSFER_US);
}

void hal_i2c_write(uint8_t address, uint8_t reg, uint16_t value)
{
    struct model *sensor = answering(address);
    transfer(sensor ? I2C_OK : I2C_ADDRESS_NACK);
    if (!sensor || machine.stuck)
        return;
    if (reg == INA_CONFIG) {
        sensor->config = value;
        sensor->begun = machine.ends;
    } else if (reg == INA_CALIBRATION) {
        sensor->canary = value & 0xFFFE;
    }
}

void hal_i2c_read(uint8_t address, uint8_t reg)
{
    struct model *sensor = answering(address);
    transfer(sensor ? I2C_OK : I2C_ADDRESS_NACK);
    if (sensor)
        machine.word = reg == INA_CONFIG ? sensor->config : sensor->canary;
}

void hal_i2c_poll(uint8_t address, bool set_pointer, bool clear)
{
    struct model *sensor = answering(address);
    transfer(sensor ? I2C_OK : set_pointer ? I2C_ADDRESS_NACK : I2C_ADDRESS_NACK_READ);
    if (!sensor || machine.stuck)
        return;
    uint32_t period_us = ina_period_us(sensor->config);
    bool ready = machine.ends - sensor->begun >= period_us;
    machine.word = (uint16_t)((sensor->bus & ~INA_READY) | (ready ? INA_READY : 0));
    machine.shunt = sensor->shunt;
    if (ready) {
        machine.ended = machine.ends;
        machine.ends += clear ? 2 * TRANSFER_US : TRANSFER_US;
        while (clear && machine.ends - sensor->begun >= period_us)
            sensor->begun += period_us;
    }
}

uint8_t hal_i2c_status(void)
{
    /* The scan at boot waits in a loop of its own. */
    if (machine.ends && machine.now < machine.ends && !bridge.sampler.count)
        machine.now = machine.ends;
    return machine.now < machine.ends ? I2C_BUSY : machine.status;
}

uint16_t hal_i2c_word(void)
{
    return machine.word;
}

uint16_t hal_i2c_shunt(void)
{
    return machine.shunt;
}

uint32_t hal_i2c_ended(void)
{
    return (uint32_t)machine.ended;
}

void hal_uart_kick(void)
{
}

uint32_t hal_uart_zero_at(void)
{
    return (uint32_t)machine.zero_at;
}

uint16_t hal_uart_errors(void)
{
    return 0;
}

uint8_t hal_eeprom_read(uint16_t at)
{
    return machine.eeprom[at % EEPROM_BYTES];
}

bool hal_eeprom_ready(void)
{
    return true;
}

void hal_eeprom_write(uint16_t at, uint8_t value)
{
    machine.eeprom_writes++;
    if (!machine.power_left)
        return;
    if (machine.power_left != UINT32_MAX)
        machine.power_left--;
    machine.eeprom[at % EEPROM_BYTES] = value;
}

bool hal_marker_take(struct marker_edge *edge)
{
    if (!machine.has_edge)
        return false;
    *edge = machine.edge;
    machine.has_edge = false;
    return true;
}

void hal_restart(enum restart how)
{
    machine.restart = how;
}

void hal_board(struct board *board)
{
    memset(board, 0, sizeof *board);
    board->board = 0x81;
    board->features = FEATURE_MARKER | FEATURE_PERSISTENT | FEATURE_HANG;
    board->reset_cause = machine.cold ? 1 : 2;
    board->cold = machine.cold;
    board->boots = machine.boots = (uint16_t)(machine.cold ? 1 : machine.boots + 1);
    board->warm_boot = machine.warm_boot;
    machine.cold = false;
}

void hal_keep_boot(uint16_t boot)
{
    machine.warm_boot = boot;
}

/* ---- the other side ---- */

void native_erase(void)
{
    memset(&machine, 0, sizeof machine);
    memset(machine.eeprom, 0xFF, sizeof machine.eeprom);
    machine.cold = true;
    machine.power_left = UINT32_MAX;
    machine.restart = -1;
}

void native_boot(bool cold)
{
    machine.now = 0;
    machine.ends = machine.ended = 0;
    machine.status = I2C_OK;
    machine.restart = -1;
    machine.power_left = UINT32_MAX;
    machine.cold |= cold;
    for (int i = 0; i < MAX_SENSORS; i++)
        machine.sensors[i].begun = 0;
    memset(&tx_queue, 0, sizeof tx_queue);
    memset(&rx_queue, 0, sizeof rx_queue);
    memset(&bridge, 0, sizeof bridge);
    bridge_begin(&bridge);
}

void native_sensor(int number, int address, int shunt, int bus)
{
    machine.sensors[number].address = (uint8_t)address;
    machine.sensors[number].shunt = (uint16_t)shunt;
    machine.sensors[number].bus = (uint16_t)bus;
}

void native_brown_out(int number)
{
    machine.sensors[number].config = 0x399F;
    machine.sensors[number].canary = 0;
}

void native_absent(int number, bool absent)
{
    machine.sensors[number].absent = absent;
}

void native_stuck(bool stuck)
{
    machine.stuck = stuck;
}

void native_cut_power_after(uint32_t writes)
{
    machine.power_left = writes;
}

uint32_t native_eeprom_writes(void)
{
    return machine.eeprom_writes;
}

int native_restart(void)
{
    return machine.restart;
}

void native_marker(int level, int seq)
{
    machine.edge = (struct marker_edge){machine.now, (uint16_t)seq, (uint8_t)level};
    machine.has_edge = true;
}

uint64_t native_now(void)
{
    return machine.now;
}

void native_skip(uint64_t us)
{
    machine.now += us;
}

size_t native_receive(const uint8_t *bytes, size_t count)
{
    size_t taken = 0;
    for (; taken < count; taken++) {
        if ((uint8_t)((rx_queue.head + 1) & (RX_SIZE - 1)) == rx_queue.tail)
            break;
        if (!bytes[taken])
            machine.zero_at = machine.now;
        rx_put(bytes[taken]);
    }
    return taken;
}

size_t native_run(uint32_t us, uint8_t *out, size_t room)
{
    uint64_t until = machine.now + us;
    size_t count = 0;
    while (machine.now < until) {
        bridge_poll(&bridge);
        /* 500 kBaud send a byte in 20 us, which is the step of time here. */
        uint8_t byte;
        if (tx_take(&byte) && count < room)
            out[count++] = byte;
        machine.now += 20;
    }
    return count;
}
