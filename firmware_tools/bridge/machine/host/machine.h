/*
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Links libsimavr, which is under the GNU General Public License 3. This folder is shipped as source and compiled
 * on the user's machine; a binary made from it is under that licence as a whole.
 */
/*
 * The simulated machine: one ATmega328P with its firmware, up to four INA219 on its bus, a serial line to a host.
 *
 * Two clocks. True time is in seconds since power-on; loads, sensors and the host live in it. Cycles are the MCU's:
 * its crystal may be off, so that one true second has `hz` cycles. Everything that happens is put in order by cycles.
 */
#ifndef EDGEJOULE_MACHINE_H
#define EDGEJOULE_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sim_avr.h>

#define MAX_SENSORS 4
#define F_CPU 16000000.0

/* ---- seeded randomness (random.c): one stream for each cause, so that one fault does not shift another ---- */

struct random_stream {
    uint64_t state;
    bool has_spare;
    double spare;
};

struct random_stream random_stream(uint64_t seed, uint64_t number);
uint64_t random_bits(struct random_stream *stream);
double random_uniform(struct random_stream *stream); /* [0, 1) */
double random_normal(struct random_stream *stream);
bool random_chance(struct random_stream *stream, double p);

/* ---- loads (load.c): power over time, linear in pieces, energy in closed form ---- */

struct knot {
    double at_s;    /* begin of this piece, from the begin of the part */
    double power_w; /* at its begin */
    double slope_w; /* W per s */
    double before_j; /* energy of all pieces before it */
};

struct load_part {
    double period_s; /* 0: the last piece holds for ever */
    double period_j;
    size_t count;
    struct knot *knots;
};

/* The sum of its parts, from `from_s` on (true time), where the parts' own time is zero. */
struct load {
    double from_s;
    size_t count;
    struct load_part *parts;
};

/* What one rail draws: loads that follow one another. */
struct rail {
    double supply_v;   /* of the ideal supply */
    double source_ohm; /* all resistance between it and IN- */
    size_t count;
    struct load *loads;
};

struct rail_mean {
    double current_a, voltage_v;
};

void load_part_finish(struct load_part *part); /* fills before_j and period_j */
void rail_append(struct rail *rail, struct load load);
double rail_energy_j(const struct rail *rail, double from_s, double to_s);
struct rail_mean rail_mean(const struct rail *rail, double from_s, double to_s);

/* ---- INA219 (ina219.c) ---- */

struct ina219 {
    uint8_t address;
    bool absent;
    bool swapped, minus_open, low_side, bypassed; /* wires that are wrong */
    double shunt_ohm, offset_v, gain, bus_gain, oscillator, noise_v;
    struct rail rail;
    struct random_stream noise;
    uint16_t config, shunt, bus, power, current, calibration; /* registers; `bus` without its flags */
    bool ready, overflow;
    uint8_t pointer;
    enum { IDLE, SHUNT, BUS } phase;
    double begin_s, end_s; /* of the running conversion */
    uint64_t conversions;
};

void ina219_power_on(struct ina219 *sensor, double now_s);
void ina219_advance(struct ina219 *sensor, double now_s);
uint16_t ina219_read(struct ina219 *sensor, uint8_t number, double now_s);
void ina219_write(struct ina219 *sensor, uint8_t number, uint16_t value, double now_s);

/* ---- the machine ---- */

enum usb { USB_NONE, USB_FRAMES, USB_FTDI };

struct counters {
    uint64_t resets, rx_bytes, rx_overruns, tx_bytes, tx_dropped, tx_flipped, rx_dropped, rx_flipped;
    uint64_t nacks, arbitrations, stuck_starts, i2c_flips, scl_pulses;
    uint64_t unread_bytes, ring_dropped, slips;
};

struct machine {
    avr_t *avr;
    double hz; /* cycles per true second */
    double now_s;
    uint64_t seed;
    bool has_firmware;
    const char *eeprom_path;
    int sensors;
    struct ina219 sensor[MAX_SENSORS];
    struct counters count;
};

extern struct machine machine;

double cycle_s(avr_cycle_count_t cycle);
avr_cycle_count_t cycle_at(double true_s);
avr_cycle_count_t cycles_until(double true_s); /* from the current cycle, 1 at least */

/* ---- processor (mcu.c) ---- */

void mcu_start(const char *hex, const char *bootloader, double crystal_ppm);
void mcu_run_to(double true_s);
bool mcu_reset(const char *cause); /* power-on, external, brown-out */
void mcu_marker(double at_s, int level);
bool mcu_save_eeprom(void);
const char *mcu_state(void);
/* Interrupts that stay raised while their flag is set: looks again after each return from interrupt. */
void mcu_level_vector(avr_int_vector_t *vector);

/* ---- I2C bus (twi.c), with its faults ---- */

struct twi_faults {
    int address_nacks[MAX_SENSORS], data_nacks[MAX_SENSORS], arbitrations;
    int stuck_pulses; /* SDA is held low until SCL has risen this often; 0: free */
    double flip;      /* probability that a data byte has one bit changed */
};

extern struct twi_faults twi_faults;
void twi_attach(void);

/* ---- timers (timers.c) ---- */

void timers_attach(void);

/* ---- serial line (uart.c) and USB (usb.c) ---- */

struct uart_faults {
    double to_host_flip, to_host_drop, to_mcu_flip, to_mcu_drop;
};

extern struct uart_faults uart_faults;
void uart_attach(void);
void uart_send(const uint8_t *bytes, size_t count, double from_s); /* host to MCU */
void uart_cut(void); /* forget what the host has sent */

void usb_set(enum usb kind);
void usb_byte(uint8_t byte, double at_s);
/* Hands over chunks whose arrival at the host is at `now_s` or before. */
void usb_deliver(double now_s, void (*chunk)(double at_s, const uint8_t *bytes, size_t count));

/* ---- control channel (control.c) ---- */

void control_open(void);
int control_fd(void);
void control_chunk(double at_s, const uint8_t *bytes, size_t count);
bool control_serve(void); /* reads what is there and obeys whole lines; false: the other end has closed or said quit */
void control_answer(const char *format, ...);
struct ina219 *control_sensor(int number); /* NULL: there is none of that number */

/* ---- a load that comes over it (control_load.c); only an error and the end are answered ---- */

void control_load(const char *text);
void control_load_part(const char *text);
void control_load_knot(const char *text);
void control_load_end(void);

/* ---- pseudo-terminal in real time (terminal.c) ---- */

struct terminal {
    const char *link; /* NULL: lock-step */
    bool reset_on_open;
};

extern struct terminal terminal;
bool terminal_plug(void);
void terminal_unplug(void);
double terminal_epoch_s(void); /* CLOCK_MONOTONIC at true time 0 */
void terminal_run(void);

void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

#endif
