/*
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Links libsimavr, which is under the GNU General Public License 3. This folder is shipped as source and compiled
 * on the user's machine; a binary made from it is under that licence as a whole.
 */
/* The ATmega328P: its image, its clock, its resets, its EEPROM and its marker pin. */
#include <avr_eeprom.h>
#include <avr_ioport.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sim_core.h>
#include <sim_io.h>

#include "machine.h"

enum { MCUSR = 0x54, PORF = 1, EXTRF = 2, BORF = 4, SRAM = 0x100 };

double cycle_s(avr_cycle_count_t cycle) { return (double)cycle / machine.hz; }

avr_cycle_count_t cycle_at(double true_s) { return true_s > 0 ? (avr_cycle_count_t)llround(true_s * machine.hz) : 0; }

avr_cycle_count_t cycles_until(double true_s) {
    avr_cycle_count_t at = cycle_at(true_s);
    return at > machine.avr->cycle ? at - machine.avr->cycle : 1;
}

/* ---- images ---- */

/* Intel hex; the lowest address. libsimavr's reader takes a start address (types 03, 05) for data. */
static uint32_t load_hex(const char *path) {
    avr_t *avr = machine.avr;
    char line[600];
    uint32_t base = 0, lowest = avr->flashend + 1;
    FILE *file = fopen(path, "r");
    if (!file) die("%s: cannot be read", path);
    while (fgets(line, sizeof line, file)) {
        uint8_t record[256 + 5], sum = 0;
        unsigned byte, count = 0;
        while (count < sizeof record && sscanf(line + 1 + 2 * count, "%2x", &byte) == 1)
            sum += record[count++] = (uint8_t)byte;
        if (line[0] != ':' || count < 5 || count != record[0] + 5u || sum) die("%s: no Intel hex file", path);
        uint32_t value = (uint32_t)record[4] << 8 | record[5];
        uint32_t at = base + ((uint32_t)record[1] << 8 | record[2]);
        if (record[3] == 1) break;
        if (record[3] == 2) base = value << 4;
        if (record[3] == 4) base = value << 16;
        if (record[3]) continue;
        if (at + record[0] > avr->flashend + 1) die("%s: larger than the flash", path);
        memcpy(avr->flash + at, record + 4, record[0]);
        if (at < lowest) lowest = at;
    }
    fclose(file);
    if (lowest > avr->flashend) die("%s: no Intel hex file", path);
    return lowest;
}

static void load_eeprom(void) {
    static uint8_t content[1024];
    FILE *file = fopen(machine.eeprom_path, "rb");
    if (!file) return;
    avr_eeprom_desc_t ee = {.ee = content, .offset = 0, .size = (uint32_t)fread(content, 1, sizeof content, file)};
    fclose(file);
    if (ee.size) avr_ioctl(machine.avr, AVR_IOCTL_EEPROM_SET, &ee);
}

bool mcu_save_eeprom(void) {
    avr_eeprom_desc_t ee = {.ee = NULL, .offset = 0, .size = machine.avr->e2end + 1};
    if (!machine.eeprom_path) return true;
    avr_ioctl(machine.avr, AVR_IOCTL_EEPROM_GET, &ee); /* answers -1 when it went well, too */
    if (!ee.ee) return false;
    char beside[4096];
    if (snprintf(beside, sizeof beside, "%s.part", machine.eeprom_path) >= (int)sizeof beside) return false;
    FILE *file = fopen(beside, "wb");
    if (!file) return false;
    bool whole = fwrite(ee.ee, 1, ee.size, file) == ee.size;
    return fclose(file) == 0 && whole && rename(beside, machine.eeprom_path) == 0;
}

/* ---- interrupts by level ---- */

static void returned(avr_irq_t *irq, uint32_t running, void *param) {
    (void)irq;
    avr_int_vector_t *vector = param;
    if (!running && avr_regbit_get(machine.avr, vector->raised)) avr_raise_interrupt(machine.avr, vector);
}

void mcu_level_vector(avr_int_vector_t *vector) {
    avr_irq_register_notify(vector->irq + AVR_INT_IRQ_RUNNING, returned, vector);
}

/* ---- resets ---- */

static void arm_marker(void);

static void count_reset(avr_io_t *io) {
    (void)io;
    machine.count.resets++;
    arm_marker(); /* a reset clears every cycle timer */
}

static avr_io_t reset_counter = {.kind = "machine-resets", .reset = count_reset};

static void power_on(void) {
    /* SRAM comes up with anything in it; what firmware keeps there over a reset must tell. */
    struct random_stream garbage = random_stream(machine.seed, 11 + machine.count.resets);
    for (uint32_t i = SRAM; i <= machine.avr->ramend; i++) machine.avr->data[i] = (uint8_t)random_bits(&garbage);
    for (int i = 0; i < machine.sensors; i++) ina219_power_on(&machine.sensor[i], machine.now_s);
}

bool mcu_reset(const char *cause) {
    uint8_t flag = !strcmp(cause, "power-on") ? PORF : !strcmp(cause, "external") ? EXTRF : 0;
    if (!strcmp(cause, "brown-out")) flag = BORF;
    if (!flag) return false;
    uint8_t flags = flag == PORF ? 0 : machine.avr->data[MCUSR]; /* they add up until the firmware clears them */
    if (flag == PORF) power_on();
    avr_reset(machine.avr);
    machine.avr->run = avr_callback_run_raw;
    machine.avr->state = cpu_Running;
    machine.avr->data[MCUSR] = flags | flag;
    return true;
}

const char *mcu_state(void) {
    if (!machine.has_firmware) return "empty";
    return machine.avr->state == cpu_Running ? "running" : machine.avr->state == cpu_Sleeping ? "sleeping" : "crashed";
}

/* ---- running ---- */

static void no_sleep(avr_t *avr, avr_cycle_count_t cycles) { (void)avr, (void)cycles; }

void mcu_start(const char *hex, const char *bootloader, double crystal_ppm) {
    avr_t *avr = machine.avr = avr_make_mcu_by_name("atmega328p");
    if (!avr || avr_init(avr)) die("libsimavr does not know the atmega328p");
    avr->log = LOG_ERROR;
    avr->frequency = (uint32_t)F_CPU;
    machine.hz = F_CPU * (1 + crystal_ppm * 1e-6);
    avr->sleep = no_sleep;
    avr->codeend = avr->flashend;
    if (hex) load_hex(hex);
    if (bootloader) avr->reset_pc = load_hex(bootloader);
    machine.has_firmware = hex || bootloader;
    if (machine.eeprom_path) load_eeprom();
    twi_attach();
    uart_attach();
    timers_attach();
    avr_register_io(avr, &reset_counter);
    mcu_reset("power-on");
}

static avr_cycle_count_t smaller(avr_cycle_count_t a, avr_cycle_count_t b) { return a < b ? a : b; }

/*
 * Runs to a true time. A sleeping processor goes to its next event in one step. The slices in which this is called
 * change nothing: the end of a slice is no event.
 */
void mcu_run_to(double true_s) {
    avr_t *avr = machine.avr;
    avr_cycle_count_t target = cycle_at(true_s);
    while (avr->cycle < target) {
        if (avr->run != avr_callback_run_raw) { /* the watchdog has bitten: libsimavr resets from its next run */
            avr->run(avr);
            avr->run = avr_callback_run_raw;
            avr->state = cpu_Running;
            continue;
        }
        bool runs = machine.has_firmware && avr->state == cpu_Running;
        if (runs) {
            avr->run_cycle_count = smaller(avr->run_cycle_count, target - avr->cycle);
            avr_flashaddr_t next = avr_run_one(avr);
            avr_cycle_timer_process(avr);
            if (avr->run == avr_callback_run_raw) avr->pc = next;
        } else {
            avr_cycle_count_t wait = avr_cycle_timer_process(avr);
            if (!machine.has_firmware || avr->state != cpu_Running)
                avr->cycle = smaller(avr->cycle + (wait ? wait : 1), target);
        }
        if (machine.has_firmware && avr->interrupt_state) avr_service_interrupts(avr);
    }
    if (true_s > machine.now_s) machine.now_s = true_s;
}

/* ---- marker input, ICP1 = PB0 ---- */

#define MARKERS 4096
static struct marker {
    double at_s;
    int level;
} markers[MARKERS];
static size_t first_marker, marker_count;

static avr_cycle_count_t next_marker(avr_t *avr, avr_cycle_count_t when, void *param) {
    (void)param;
    avr_raise_irq(avr_io_getirq(avr, AVR_IOCTL_IOPORT_GETIRQ('B'), 0), (uint32_t)markers[first_marker].level);
    first_marker = (first_marker + 1) % MARKERS;
    if (!--marker_count) return 0;
    avr_cycle_count_t at = cycle_at(markers[first_marker].at_s);
    return at > when ? at : when + 1;
}

static void arm_marker(void) {
    if (marker_count)
        avr_cycle_timer_register(machine.avr, cycles_until(markers[first_marker].at_s), next_marker, NULL);
}

void mcu_marker(double at_s, int level) {
    if (marker_count == MARKERS) die("more than %d marker edges are waiting", MARKERS);
    markers[(first_marker + marker_count++) % MARKERS] = (struct marker){at_s, level};
    if (marker_count == 1) arm_marker();
}
