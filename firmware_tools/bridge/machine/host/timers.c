/*
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Links libsimavr, which is under the GNU General Public License 3. This folder is shipped as source and compiled
 * on the user's machine; a binary made from it is under that licence as a whole.
 */
/*
 * Flags of the timers. Writing a one to a bit of TIFRn clears that flag (data sheet DS40002061, "TIFR1"); libsimavr
 * clears every flag of the timer, so that an overflow is lost when a compare flag is cleared before it was served.
 */
#include <sim_io.h>

#include "machine.h"

struct flags {
    avr_io_addr_t address;
    uint8_t vector[8]; /* by bit; 0: none */
};

static struct flags timers[] = {
    {0x35, {16, 14, 15}},
    {0x36, {13, 11, 12, 0, 0, 10}},
    {0x37, {9, 7, 8}},
};

static avr_int_vector_t *vector_numbered(avr_t *avr, uint8_t number) {
    for (int i = 0; i < avr->interrupts.vector_count; i++)
        if (avr->interrupts.vector[i]->vector == number) return avr->interrupts.vector[i];
    die("libsimavr has no vector %d", number);
}

static void flags_written(avr_t *avr, avr_io_addr_t address, uint8_t value, void *param) {
    (void)address;
    const struct flags *flags = param;
    for (int bit = 0; bit < 8; bit++)
        if (value >> bit & 1 && flags->vector[bit]) avr_clear_interrupt(avr, vector_numbered(avr, flags->vector[bit]));
}

void timers_attach(void) {
    for (size_t i = 0; i < sizeof timers / sizeof *timers; i++) {
        machine.avr->io[AVR_DATA_TO_IO(timers[i].address)].w.c = flags_written;
        machine.avr->io[AVR_DATA_TO_IO(timers[i].address)].w.param = &timers[i];
    }
}
