/*
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Links libsimavr, which is under the GNU General Public License 3. This folder is shipped as source and compiled
 * on the user's machine; a binary made from it is under that licence as a whole.
 */
/*
 * The control channel: one command a line on standard input, answers on standard output, each ended by a line that
 * begins with "ok" or "error". Numbers are written in C's hexadecimal notation, so that none is rounded on its way.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine.h"

static int out = -1;
static char *held;
static size_t held_count, held_size;

void control_open(void) {
    /* libsimavr prints to standard output: our answers get a descriptor of their own, the rest goes to stderr. */
    out = dup(STDOUT_FILENO);
    if (out < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) die("cannot set up the control channel");
}

int control_fd(void) { return STDIN_FILENO; }

static void send_all(const char *text, size_t count) {
    while (count) {
        ssize_t n = write(out, text, count);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) exit(0); /* nobody is there any more */
        text += n;
        count -= (size_t)n;
    }
}

void control_answer(const char *format, ...) {
    char line[2048];
    va_list values;
    va_start(values, format);
    int n = vsnprintf(line, sizeof line - 1, format, values);
    va_end(values);
    line[n] = '\n';
    send_all(line, (size_t)n + 1);
}

void control_chunk(double at_s, const uint8_t *bytes, size_t count) {
    static char line[2 * 65536 + 64];
    size_t n = (size_t)snprintf(line, 64, "@%a ", at_s);
    for (size_t i = 0; i < count; i++) {
        line[n++] = "0123456789abcdef"[bytes[i] >> 4];
        line[n++] = "0123456789abcdef"[bytes[i] & 15];
    }
    line[n++] = '\n';
    send_all(line, n);
}

struct ina219 *control_sensor(int number) {
    return number >= 0 && number < machine.sensors ? &machine.sensor[number] : NULL;
}

/* ---- commands ---- */

static void command_step(const char *text) {
    double until_s;
    if (sscanf(text, "%la", &until_s) != 1 || until_s < machine.now_s || terminal.link) {
        control_answer("error not an instant to step to");
        return;
    }
    mcu_run_to(until_s);
    usb_deliver(until_s, control_chunk);
    control_answer("ok %a %s", machine.now_s, mcu_state());
}

static void command_tx(const char *text) {
    static uint8_t bytes[4096];
    double at_s;
    int used = 0;
    size_t count = 0;
    if (sscanf(text, "%la %n", &at_s, &used) < 1 || !used) {
        control_answer("error tx TIME HEX");
        return;
    }
    unsigned byte;
    for (const char *at = text + used; count < sizeof bytes && sscanf(at, "%2x", &byte) == 1; at += 2)
        bytes[count++] = (uint8_t)byte;
    uart_send(bytes, count, at_s < machine.now_s ? machine.now_s : at_s);
    control_answer("ok");
}

static void command_energy(const char *text) {
    int number;
    double from_s, to_s;
    if (sscanf(text, "%d %la %la", &number, &from_s, &to_s) != 3 || !control_sensor(number)) {
        control_answer("error energy SENSOR FROM TO");
        return;
    }
    struct ina219 *sensor = control_sensor(number);
    struct rail_mean mean = rail_mean(&sensor->rail, from_s, to_s);
    control_answer("ok %a %a %a", rail_energy_j(&sensor->rail, from_s, to_s), mean.current_a, mean.voltage_v);
}

static void command_register(const char *text, bool writes) {
    int number;
    unsigned which, value = 0;
    if (sscanf(text, "%d %x %x", &number, &which, &value) < (writes ? 3 : 2) || !control_sensor(number)) {
        control_answer("error peek SENSOR REGISTER, poke SENSOR REGISTER VALUE");
        return;
    }
    if (writes) ina219_write(control_sensor(number), (uint8_t)which, (uint16_t)value, machine.now_s);
    control_answer("ok %x", writes ? value : ina219_read(control_sensor(number), (uint8_t)which, machine.now_s));
}

static bool fault(const char *name, int sensor, double value) {
    struct ina219 *one = control_sensor(sensor);
    int times = (int)value;
    if (!strcmp(name, "address-nack") && one)
        twi_faults.address_nacks[sensor] = times;
    else if (!strcmp(name, "data-nack") && one)
        twi_faults.data_nacks[sensor] = times;
    else if (!strcmp(name, "arbitration"))
        twi_faults.arbitrations = times;
    else if (!strcmp(name, "sda-stuck"))
        twi_faults.stuck_pulses = times;
    else if (!strcmp(name, "i2c-flip"))
        twi_faults.flip = value;
    else if (!strcmp(name, "absent") && one)
        one->absent = times != 0;
    else if (!strcmp(name, "wires-swapped") && one)
        one->swapped = times != 0;
    else if (!strcmp(name, "minus-open") && one)
        one->minus_open = times != 0;
    else if (!strcmp(name, "low-side") && one)
        one->low_side = times != 0;
    else if (!strcmp(name, "bypassed") && one)
        one->bypassed = times != 0;
    else if (!strcmp(name, "sensor-brown-out") && one) {
        ina219_advance(one, machine.now_s);
        ina219_power_on(one, machine.now_s);
    } else if (!strcmp(name, "to-host-flip"))
        uart_faults.to_host_flip = value;
    else if (!strcmp(name, "to-host-drop"))
        uart_faults.to_host_drop = value;
    else if (!strcmp(name, "to-mcu-flip"))
        uart_faults.to_mcu_flip = value;
    else if (!strcmp(name, "to-mcu-drop"))
        uart_faults.to_mcu_drop = value;
    else if (!strcmp(name, "usb"))
        usb_set((enum usb)times);
    else
        return false;
    return true;
}

static void command_fault(const char *text) {
    char name[32];
    int sensor;
    double value;
    bool known = sscanf(text, "%31s %d %la", name, &sensor, &value) == 3 && fault(name, sensor, value);
    control_answer(known ? "ok" : "error unknown fault or sensor");
}

static void command_status(void) {
    const struct counters *c = &machine.count;
    control_answer("ok now=%a epoch=%a state=%s cycles=%" PRIu64 " resets=%" PRIu64 " rx_bytes=%" PRIu64
           " rx_overruns=%" PRIu64 " rx_dropped=%" PRIu64 " rx_flipped=%" PRIu64 " tx_bytes=%" PRIu64
           " tx_dropped=%" PRIu64 " tx_flipped=%" PRIu64 " nacks=%" PRIu64 " arbitrations=%" PRIu64
           " stuck_starts=%" PRIu64 " i2c_flips=%" PRIu64 " scl_pulses=%" PRIu64 " unread_bytes=%" PRIu64
           " ring_dropped=%" PRIu64 " slips=%" PRIu64,
           machine.now_s, terminal_epoch_s(), mcu_state(), (uint64_t)machine.avr->cycle, c->resets, c->rx_bytes,
           c->rx_overruns, c->rx_dropped, c->rx_flipped, c->tx_bytes, c->tx_dropped, c->tx_flipped, c->nacks,
           c->arbitrations, c->stuck_starts, c->i2c_flips, c->scl_pulses, c->unread_bytes, c->ring_dropped, c->slips);
}

static bool begins(const char *line, const char *word, const char **rest) {
    size_t n = strlen(word);
    if (strncmp(line, word, n) || (line[n] && line[n] != ' ')) return false;
    *rest = line[n] ? line + n + 1 : line + n;
    return true;
}

/* False: the end was asked for. */
static bool obey(const char *line) {
    const char *rest;
    double at_s;
    int level;
    if (begins(line, "knot", &rest))
        control_load_knot(rest);
    else if (begins(line, "part", &rest))
        control_load_part(rest);
    else if (begins(line, "load-end", &rest))
        control_load_end();
    else if (begins(line, "load", &rest))
        control_load(rest);
    else if (begins(line, "step", &rest))
        command_step(rest);
    else if (begins(line, "tx", &rest))
        command_tx(rest);
    else if (begins(line, "fault", &rest))
        command_fault(rest);
    else if (begins(line, "energy", &rest))
        command_energy(rest);
    else if (begins(line, "peek", &rest))
        command_register(rest, false);
    else if (begins(line, "poke", &rest))
        command_register(rest, true);
    else if (begins(line, "status", &rest))
        command_status();
    else if (begins(line, "reset", &rest))
        control_answer(mcu_reset(rest) ? "ok" : "error reset power-on, external or brown-out");
    else if (begins(line, "marker", &rest) && sscanf(rest, "%la %d", &at_s, &level) == 2) {
        mcu_marker(at_s, level);
        control_answer("ok");
    } else if (begins(line, "unplug", &rest)) {
        terminal_unplug();
        control_answer("ok");
    } else if (begins(line, "replug", &rest))
        control_answer(terminal.link && terminal_plug() ? "ok" : "error no terminal");
    else if (begins(line, "save", &rest))
        control_answer(mcu_save_eeprom() ? "ok" : "error the EEPROM file cannot be written");
    else if (begins(line, "quit", &rest)) {
        control_answer(mcu_save_eeprom() ? "ok" : "error the EEPROM file cannot be written");
        return false;
    } else
        control_answer("error unknown command");
    return true;
}

bool control_serve(void) {
    if (held_size - held_count < 65536) {
        held_size = 2 * held_size + 131072;
        held = realloc(held, held_size);
        if (!held) die("no memory for a command");
    }
    ssize_t n = read(control_fd(), held + held_count, held_size - held_count - 1);
    if (n < 0) return errno == EINTR || errno == EAGAIN;
    if (n == 0) return false;
    held_count += (size_t)n;
    held[held_count] = 0;
    char *line = held, *end;
    bool goes_on = true;
    while (goes_on && (end = memchr(line, '\n', held_count - (size_t)(line - held)))) {
        *end = 0;
        goes_on = obey(line);
        line = end + 1;
    }
    held_count -= (size_t)(line - held);
    memmove(held, line, held_count);
    return goes_on;
}
