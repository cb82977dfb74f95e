/*
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Links libsimavr, which is under the GNU General Public License 3. This folder is shipped as source and compiled
 * on the user's machine; a binary made from it is under that licence as a whole.
 */
/*
 * Two-wire interface of the ATmega328P as bus master (data sheet DS40002061, "2-wire Serial Interface"), in place of
 * libsimavr's own: with its bit timing, its status codes, and a bus that can go wrong.
 */
#include <avr_ioport.h>
#include <sim_io.h>

#include "machine.h"

enum { TWBR = 0xB8, TWSR = 0xB9, TWDR = 0xBB, TWCR = 0xBC, PINC = 0x26, DDRC = 0x27, PORTC = 0x28 };
enum { TWEN = 0x04, TWSTO = 0x10, TWSTA = 0x20, TWEA = 0x40, TWINT = 0x80 };
enum { SDA = 0x10, SCL = 0x20 };

struct twi_faults twi_faults;

static avr_int_vector_t vector = {
    .vector = 24, .enable = AVR_IO_REGBIT(TWCR, 0), .raised = AVR_IO_REGBIT(TWCR, 7), .raise_sticky = 1};
static struct random_stream flips;

static struct {
    enum { FREE, STARTED, WRITING, READING } state;
    struct ina219 *slave; /* who acknowledged its address */
    uint8_t status;       /* TWSR when the running byte is through */
    int received;         /* data bytes since the address */
    uint16_t word;
    bool stored; /* the running byte goes into the slave */
    uint8_t byte;
    bool scl; /* level of the line as the pins drive it */
} bus;

static uint8_t maybe_flip(uint8_t byte) {
    if (!random_chance(&flips, twi_faults.flip)) return byte;
    machine.count.i2c_flips++;
    return byte ^ (uint8_t)(1u << (random_bits(&flips) & 7));
}

static void store(struct ina219 *slave, uint8_t byte, double at_s) {
    if (bus.received == 0) {
        slave->pointer = byte;
    } else if (bus.received == 1) {
        bus.word = (uint16_t)(byte << 8);
    } else if (bus.received == 2) {
        ina219_write(slave, slave->pointer, bus.word | byte, at_s);
    }
    bus.received++;
}

static avr_cycle_count_t done(avr_t *avr, avr_cycle_count_t when, void *param) {
    (void)param;
    if (bus.stored && bus.slave) store(bus.slave, bus.byte, cycle_s(when));
    bus.stored = false;
    avr->data[TWSR] = (avr->data[TWSR] & 7) | bus.status;
    avr_raise_interrupt(avr, &vector);
    return 0;
}

/* One bit on the wire has 16 + 2 TWBR 4^TWPS cycles. */
static void busy(avr_t *avr, int bits, uint8_t status) {
    unsigned prescale = 1u << 2 * (avr->data[TWSR] & 3);
    bus.status = status;
    avr_cycle_timer_register(avr, (unsigned)bits * (16 + 2 * avr->data[TWBR] * prescale), done, NULL);
}

static bool take(int *left) {
    if (*left <= 0) return false;
    --*left;
    return true;
}

static struct ina219 *find(uint8_t address) {
    for (int i = 0; i < machine.sensors; i++) {
        struct ina219 *sensor = &machine.sensor[i];
        if (sensor->address == address && !sensor->absent) {
            if (!take(&twi_faults.address_nacks[i])) return sensor;
            machine.count.nacks++;
        }
    }
    return NULL;
}

static void address(avr_t *avr) {
    uint8_t byte = avr->data[TWDR];
    bool reads = byte & 1;
    bus.slave = find(byte >> 1);
    bus.state = reads ? READING : WRITING;
    bus.received = 0;
    busy(avr, 9, reads ? (bus.slave ? 0x40 : 0x48) : (bus.slave ? 0x18 : 0x20));
}

static void send(avr_t *avr) {
    bool ack = bus.slave != NULL;
    if (ack && take(&twi_faults.data_nacks[bus.slave - machine.sensor])) {
        machine.count.nacks++;
        ack = false;
    }
    bus.stored = ack;
    bus.byte = maybe_flip(avr->data[TWDR]);
    busy(avr, 9, ack ? 0x28 : 0x30);
}

static void receive(avr_t *avr, bool ack) {
    uint8_t byte = 0xFF;
    if (bus.slave) {
        if (bus.received % 2 == 0) bus.word = ina219_read(bus.slave, bus.slave->pointer, cycle_s(avr->cycle));
        byte = bus.received % 2 ? (uint8_t)bus.word : bus.word >> 8;
    }
    bus.received++;
    avr->data[TWDR] = maybe_flip(byte);
    busy(avr, 9, ack ? 0x50 : 0x58);
}

static void release(avr_t *avr) {
    avr_cycle_timer_cancel(avr, done, NULL);
    bus.state = FREE;
    bus.slave = NULL;
    bus.stored = false;
}

static void control_written(avr_t *avr, avr_io_addr_t register_address, uint8_t value, void *param) {
    (void)register_address, (void)param;
    if (!(value & TWEN)) {
        release(avr);
        avr_clear_interrupt(avr, &vector);
        avr->data[TWCR] = value & (TWEA | 1);
        avr->data[TWSR] = (avr->data[TWSR] & 7) | 0xF8;
        return;
    }
    if (!(value & TWINT)) { /* the flag stays as it is; the operation goes on */
        avr->data[TWCR] = (avr->data[TWCR] & TWINT) | (value & ~TWINT);
        if (avr->data[TWCR] & TWINT) avr_raise_interrupt(avr, &vector);
        return;
    }
    avr_clear_interrupt(avr, &vector);
    avr->data[TWCR] = value & ~TWINT;
    if (value & TWSTO) {
        release(avr);
        avr->data[TWCR] &= ~TWSTO;
        avr->data[TWSR] = (avr->data[TWSR] & 7) | 0xF8;
        if (!(value & TWSTA)) return;
    }
    if (twi_faults.stuck_pulses > 0) { /* the bus is not free: a START waits for ever */
        machine.count.stuck_starts++;
        return;
    }
    if (value & TWSTA) {
        uint8_t status = bus.state == FREE ? 0x08 : 0x10;
        bus.state = STARTED;
        busy(avr, 2, status);
    } else if (take(&twi_faults.arbitrations)) {
        machine.count.arbitrations++;
        bus.state = FREE;
        bus.slave = NULL;
        busy(avr, 9, 0x38);
    } else if (bus.state == STARTED) {
        address(avr);
    } else if (bus.state == WRITING) {
        send(avr);
    } else if (bus.state == READING) {
        receive(avr, value & TWEA);
    }
}

static void status_written(avr_t *avr, avr_io_addr_t register_address, uint8_t value, void *param) {
    (void)param;
    avr->data[register_address] = (avr->data[register_address] & 0xF8) | (value & 3);
}

/* Level of a line: low when the pin drives it low, high by its pull-up otherwise. */
static bool driven_low(avr_t *avr, uint8_t pin) {
    return !(avr->data[TWCR] & TWEN) && avr->data[DDRC] & pin && !(avr->data[PORTC] & pin);
}

/* Counts what the firmware does by hand to free a slave that holds SDA. */
static void pins_changed(avr_t *avr) {
    bool scl = !driven_low(avr, SCL);
    if (scl && !bus.scl) {
        machine.count.scl_pulses++;
        if (twi_faults.stuck_pulses > 0) twi_faults.stuck_pulses--;
    }
    bus.scl = scl;
}

static struct {
    avr_io_write_t call;
    void *param;
} ddr_before, port_before;

static void ddr_written(avr_t *avr, avr_io_addr_t register_address, uint8_t value, void *param) {
    (void)param;
    ddr_before.call(avr, register_address, value, ddr_before.param);
    pins_changed(avr);
}

static void port_written(avr_t *avr, avr_io_addr_t register_address, uint8_t value, void *param) {
    (void)param;
    port_before.call(avr, register_address, value, port_before.param);
    pins_changed(avr);
}

static uint8_t pins_read(avr_t *avr, avr_io_addr_t register_address, void *param) {
    (void)param;
    uint8_t ddr = avr->data[DDRC], level = avr->data[PORTC] & ddr;
    if (!(ddr & SCL)) level |= SCL;
    if (!(ddr & SDA)) level |= SDA;
    if (twi_faults.stuck_pulses > 0) level &= (uint8_t)~SDA;
    return avr->data[register_address] = level;
}

static void reset(avr_io_t *io) {
    release(io->avr);
    io->avr->data[TWSR] = 0xF8;
    io->avr->data[TWDR] = 0xFF;
    bus.scl = true;
}

static avr_io_t io = {.kind = "machine-twi", .reset = reset};

void twi_attach(void) {
    avr_t *avr = machine.avr;
    flips = random_stream(machine.seed, 21);
    avr_register_vector(avr, &vector);
    mcu_level_vector(&vector);
    avr_register_io(avr, &io);
    avr->io[AVR_DATA_TO_IO(TWCR)].w.c = control_written;
    avr->io[AVR_DATA_TO_IO(TWSR)].w.c = status_written;
    avr->io[AVR_DATA_TO_IO(TWDR)].w.c = NULL;
    avr->io[AVR_DATA_TO_IO(TWDR)].r.c = NULL;
    ddr_before.call = avr->io[AVR_DATA_TO_IO(DDRC)].w.c;
    ddr_before.param = avr->io[AVR_DATA_TO_IO(DDRC)].w.param;
    port_before.call = avr->io[AVR_DATA_TO_IO(PORTC)].w.c;
    port_before.param = avr->io[AVR_DATA_TO_IO(PORTC)].w.param;
    avr->io[AVR_DATA_TO_IO(DDRC)].w.c = ddr_written;
    avr->io[AVR_DATA_TO_IO(PORTC)].w.c = port_written;
    avr->io[AVR_DATA_TO_IO(PINC)].r.c = pins_read;
}
