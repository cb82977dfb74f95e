/*
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Links libsimavr, which is under the GNU General Public License 3. This folder is shipped as source and compiled
 * on the user's machine; a binary made from it is under that licence as a whole.
 */
/*
 * USART0 of the ATmega328P (data sheet DS40002061, "USART0"), in place of libsimavr's own: true length of a byte on
 * the line both ways, one byte of hold beside the shift register in sending, two in receiving, overruns that are seen.
 */
#include <math.h>
#include <stdlib.h>
#include <sim_io.h>

#include "machine.h"

enum { UCSRA = 0xC0, UCSRB = 0xC1, UCSRC = 0xC2, UBRRL = 0xC4, UBRRH = 0xC5, UDR = 0xC6 };
enum { RXC = 0x80, TXC = 0x40, UDRE = 0x20, DOR = 0x08, U2X = 0x02, RXEN = 0x10, TXEN = 0x08 };

struct uart_faults uart_faults;

static avr_int_vector_t received = {
    .vector = 18, .enable = AVR_IO_REGBIT(UCSRB, 7), .raised = AVR_IO_REGBIT(UCSRA, 7), .raise_sticky = 1};
static avr_int_vector_t empty = {
    .vector = 19, .enable = AVR_IO_REGBIT(UCSRB, 5), .raised = AVR_IO_REGBIT(UCSRA, 5), .raise_sticky = 1};
static avr_int_vector_t sent = {
    .vector = 20, .enable = AVR_IO_REGBIT(UCSRB, 6), .raised = AVR_IO_REGBIT(UCSRA, 6)};
static struct random_stream to_host, to_mcu;

static struct {
    bool shifting, holding;
    uint8_t shift, hold;
} tx;

#define RX_HELD 3 /* two in the buffer and one complete in the shift register */
static struct {
    uint8_t byte[RX_HELD];
    int held;
} rx;

/* What the host has sent and is not on the line yet. */
static struct {
    struct {
        uint8_t byte;
        double from_s;
    } * items;
    size_t count, size, next;
    bool running;
} line;

static unsigned byte_cycles(avr_t *avr) {
    unsigned divider = (avr->data[UBRRL] | (avr->data[UBRRH] & 15u) << 8) + 1;
    unsigned frame = avr->data[UCSRC];
    unsigned data = 5 + (frame >> 1 & 3) + (avr->data[UCSRB] & 4 ? 1 : 0);
    unsigned bits = 1 + data + (frame & 0x20 ? 1 : 0) + (frame & 8 ? 2 : 1);
    return bits * divider * (avr->data[UCSRA] & U2X ? 8 : 16);
}

static bool damage(uint8_t *byte, struct random_stream *stream, double flip, double drop, uint64_t *flipped,
                   uint64_t *dropped) {
    if (random_chance(stream, flip)) {
        ++*flipped;
        *byte ^= (uint8_t)(1u << (random_bits(stream) & 7));
    }
    if (!random_chance(stream, drop)) return true;
    ++*dropped;
    return false;
}

/* ---- MCU to host ---- */

static avr_cycle_count_t shifted(avr_t *avr, avr_cycle_count_t when, void *param) {
    (void)param;
    struct counters *count = &machine.count;
    uint8_t byte = tx.shift;
    count->tx_bytes++;
    if (damage(&byte, &to_host, uart_faults.to_host_flip, uart_faults.to_host_drop, &count->tx_flipped,
               &count->tx_dropped))
        usb_byte(byte, cycle_s(when));
    if (!tx.holding) {
        tx.shifting = false;
        avr_raise_interrupt(avr, &sent);
        return 0;
    }
    tx.shift = tx.hold;
    tx.holding = false;
    avr_raise_interrupt(avr, &empty);
    return when + byte_cycles(avr);
}

static void data_written(avr_t *avr, avr_io_addr_t address, uint8_t value, void *param) {
    (void)address, (void)param;
    if (!(avr->data[UCSRB] & TXEN) || tx.holding) return;
    if (tx.shifting) {
        tx.hold = value;
        tx.holding = true;
        avr_clear_interrupt(avr, &empty);
        avr->data[UCSRA] &= (uint8_t)~UDRE;
        return;
    }
    tx.shift = value;
    tx.shifting = true;
    avr_cycle_timer_register(avr, byte_cycles(avr), shifted, NULL);
    avr_raise_interrupt(avr, &empty);
}

/* ---- host to MCU ---- */

static void arrive(avr_t *avr, uint8_t byte) {
    struct counters *count = &machine.count;
    count->rx_bytes++;
    if (!damage(&byte, &to_mcu, uart_faults.to_mcu_flip, uart_faults.to_mcu_drop, &count->rx_flipped,
                &count->rx_dropped))
        return;
    if (!(avr->data[UCSRB] & RXEN)) return;
    if (rx.held == RX_HELD) {
        count->rx_overruns++;
        avr->data[UCSRA] |= DOR;
        return;
    }
    rx.byte[rx.held++] = byte;
    avr_raise_interrupt(avr, &received);
}

static avr_cycle_count_t next_byte(avr_t *avr, avr_cycle_count_t earliest) {
    if (line.next == line.count) {
        line.next = line.count = 0;
        line.running = false;
        return 0;
    }
    avr_cycle_count_t from = cycle_at(line.items[line.next].from_s);
    return (from > earliest ? from : earliest) + byte_cycles(avr);
}

static avr_cycle_count_t line_byte(avr_t *avr, avr_cycle_count_t when, void *param) {
    (void)param;
    arrive(avr, line.items[line.next++].byte);
    return next_byte(avr, when);
}

static void line_start(avr_t *avr) {
    if (line.running || line.next == line.count) return;
    line.running = true;
    avr_cycle_count_t when = next_byte(avr, avr->cycle);
    avr_cycle_timer_register(avr, when - avr->cycle, line_byte, NULL);
}

void uart_send(const uint8_t *bytes, size_t count, double from_s) {
    if (line.count + count > line.size) {
        line.size = 2 * (line.count + count);
        line.items = realloc(line.items, line.size * sizeof *line.items);
        if (!line.items) die("no memory for the line");
    }
    for (size_t i = 0; i < count; i++) {
        line.items[line.count].byte = bytes[i];
        line.items[line.count++].from_s = from_s;
    }
    line_start(machine.avr);
}

void uart_cut(void) {
    avr_cycle_timer_cancel(machine.avr, line_byte, NULL);
    line.next = line.count = 0;
    line.running = false;
}

static uint8_t data_read(avr_t *avr, avr_io_addr_t address, void *param) {
    (void)param;
    uint8_t byte = 0;
    if (rx.held) {
        byte = rx.byte[0];
        rx.byte[0] = rx.byte[1];
        rx.byte[1] = rx.byte[2];
        rx.held--;
    }
    avr->data[UCSRA] &= (uint8_t)~DOR;
    if (!rx.held) {
        avr_clear_interrupt(avr, &received);
        avr->data[UCSRA] &= (uint8_t)~RXC;
    }
    avr->data[address] = byte;
    return byte;
}

/* ---- registers ---- */

static void status_written(avr_t *avr, avr_io_addr_t address, uint8_t value, void *param) {
    (void)param;
    uint8_t before = avr->data[address];
    if (value & TXC) {
        avr_clear_interrupt(avr, &sent);
        before &= (uint8_t)~TXC;
    }
    avr->data[address] = (before & (RXC | TXC | UDRE | 0x1C)) | (value & (U2X | 1));
}

static void control_written(avr_t *avr, avr_io_addr_t address, uint8_t value, void *param) {
    (void)param;
    avr->data[address] = value;
    if (!(value & RXEN)) {
        rx.held = 0;
        avr_clear_interrupt(avr, &received);
        avr->data[UCSRA] &= (uint8_t)~RXC;
    }
    /* An interrupt that is enabled while its flag is up comes at once. */
    if (avr->data[UCSRA] & RXC) avr_raise_interrupt(avr, &received);
    if (avr->data[UCSRA] & UDRE) avr_raise_interrupt(avr, &empty);
    if (avr->data[UCSRA] & TXC) avr_raise_interrupt(avr, &sent);
}

static void reset(avr_io_t *io) {
    tx.shifting = tx.holding = false;
    rx.held = 0;
    avr_cycle_timer_cancel(io->avr, shifted, NULL);
    io->avr->data[UCSRA] = UDRE;
    io->avr->data[UCSRB] = 0;
    io->avr->data[UCSRC] = 6;
    /* A reset of the MCU does not stop the host: what it has sent goes on arriving. */
    line.running = false;
    line_start(io->avr);
}

static avr_io_t io = {.kind = "machine-uart", .reset = reset};

void uart_attach(void) {
    avr_t *avr = machine.avr;
    to_host = random_stream(machine.seed, 31);
    to_mcu = random_stream(machine.seed, 32);
    avr_register_vector(avr, &received);
    avr_register_vector(avr, &empty);
    avr_register_vector(avr, &sent);
    mcu_level_vector(&received);
    mcu_level_vector(&empty);
    avr_register_io(avr, &io);
    static const avr_io_addr_t plain[] = {UCSRC, UBRRL, UBRRH};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        avr->io[AVR_DATA_TO_IO(plain[i])].w.c = NULL, avr->io[AVR_DATA_TO_IO(plain[i])].r.c = NULL;
    avr->io[AVR_DATA_TO_IO(UDR)].w.c = data_written;
    avr->io[AVR_DATA_TO_IO(UDR)].r.c = data_read;
    avr->io[AVR_DATA_TO_IO(UCSRA)].w.c = status_written;
    avr->io[AVR_DATA_TO_IO(UCSRA)].r.c = NULL;
    avr->io[AVR_DATA_TO_IO(UCSRB)].w.c = control_written;
}
