/*
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Links libsimavr, which is under the GNU General Public License 3. This folder is shipped as source and compiled
 * on the user's machine; a binary made from it is under that licence as a whole.
 */
/*
 * machine SEED CRYSTAL_PPM HEX BOOTLOADER EEPROM LINK RESET_ON_OPEN USB, then for each sensor ten numbers:
 * ADDRESS SHUNT_OHM SUPPLY_V SOURCE_OHM OFFSET_V GAIN BUS_GAIN OSCILLATOR NOISE_V ABSENT. "-" is none.
 * Started by ../driver.py, which is the only place that writes this line. Ends with its standard input.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine.h"

#define FIXED 8
#define PER_SENSOR 10

struct machine machine;

void die(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("machine: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    exit(1);
}

static const char *given(const char *text) { return strcmp(text, "-") ? text : NULL; }

static void add_sensor(char **text) {
    struct ina219 *s = &machine.sensor[machine.sensors];
    double v[PER_SENSOR];
    for (int i = 0; i < PER_SENSOR; i++) v[i] = strtod(text[i], NULL);
    *s = (struct ina219){.address = (uint8_t)v[0], .shunt_ohm = v[1], .offset_v = v[4], .gain = v[5],
                         .bus_gain = v[6], .oscillator = v[7], .noise_v = v[8], .absent = v[9] != 0};
    s->rail.supply_v = v[2];
    s->rail.source_ohm = v[3];
    s->noise = random_stream(machine.seed, 100 + (uint64_t)machine.sensors);
    machine.sensors++;
}

int main(int count, char **text) {
    if (count < 1 + FIXED || (count - 1 - FIXED) % PER_SENSOR || count > 1 + FIXED + MAX_SENSORS * PER_SENSOR)
        die("wrong arguments");
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* the driver's interrupt is its own; it closes our input */
    control_open();
    machine.seed = strtoull(text[1], NULL, 10);
    machine.eeprom_path = given(text[5]);
    for (int i = 1 + FIXED; i < count; i += PER_SENSOR) add_sensor(text + i);
    usb_set((enum usb)atoi(text[8]));
    terminal = (struct terminal){given(text[6]), atoi(text[7]) != 0};
    mcu_start(given(text[3]), given(text[4]), strtod(text[2], NULL));
    if (terminal.link) {
        if (!terminal_plug()) die("%s: cannot make the terminal", terminal.link);
        terminal_run();
    } else {
        while (control_serve()) {}
    }
    if (!mcu_save_eeprom()) die("%s: cannot be written", machine.eeprom_path);
    return 0;
}
