/*
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Links libsimavr, which is under the GNU General Public License 3. This folder is shipped as source and compiled
 * on the user's machine; a binary made from it is under that licence as a whole.
 */
/*
 * From the line to the host: at once; in USB full-speed frames of 1 ms; or as an FTDI chip does, which waits for 62
 * bytes or for its latency timer of 16 ms (FTDI AN232B-04), and then for a frame.
 */
#include <math.h>

#include "machine.h"

#define RING 65536
#define CHUNK 62
#define FRAME_S 0.001
#define LATENCY_S 0.016

static enum usb kind;
static struct {
    uint8_t byte[RING];
    double at_s[RING]; /* when the last bit left the MCU */
    size_t first, count;
} ring;
static double flushed_s;

void usb_set(enum usb wanted) { kind = wanted; }

void usb_byte(uint8_t byte, double at_s) {
    if (ring.count == RING) {
        machine.count.ring_dropped++;
        return;
    }
    size_t at = (ring.first + ring.count++) % RING;
    ring.byte[at] = byte;
    ring.at_s[at] = at_s;
}

static double stamp(size_t i) { return ring.at_s[(ring.first + i) % RING]; }

static double frame_after(double at_s) { return ceil(at_s / FRAME_S) * FRAME_S; }

/* How many of the oldest bytes travel together, and when they arrive. */
static size_t packet(double *arrives_s) {
    size_t n = 1;
    if (kind == USB_FTDI) {
        double due_s = fmax(flushed_s, 0) + LATENCY_S;
        /* The timer runs all the time; it finds what is there. */
        if (stamp(0) > due_s) due_s += ceil((stamp(0) - due_s) / LATENCY_S) * LATENCY_S;
        while (n < ring.count && n < CHUNK && stamp(n) <= due_s) n++;
        *arrives_s = frame_after(n == CHUNK ? stamp(n - 1) : due_s);
        return n;
    }
    if (kind == USB_FRAMES) {
        *arrives_s = frame_after(stamp(0));
        while (n < ring.count && stamp(n) <= *arrives_s) n++;
        return n;
    }
    /* At once: bytes that follow each other without a gap (100 us) make a chunk, which has the time of its last. */
    while (n < ring.count && n < CHUNK && stamp(n) - stamp(n - 1) < 100e-6) n++;
    *arrives_s = stamp(n - 1);
    return n;
}

void usb_deliver(double now_s, void (*chunk)(double, const uint8_t *, size_t)) {
    static uint8_t bytes[RING];
    while (ring.count) {
        double arrives_s;
        size_t n = packet(&arrives_s);
        if (arrives_s > now_s) return;
        for (size_t i = 0; i < n; i++) bytes[i] = ring.byte[(ring.first + i) % RING];
        ring.first = (ring.first + n) % RING;
        ring.count -= n;
        flushed_s = arrives_s;
        chunk(arrives_s, bytes, n);
    }
}
