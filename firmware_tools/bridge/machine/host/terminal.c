/*
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Links libsimavr, which is under the GNU General Public License 3. This folder is shipped as source and compiled
 * on the user's machine; a binary made from it is under that licence as a whole.
 */
/*
 * The machine on a pseudo-terminal in real time. The slave end is closed as soon as it is made: so a hang-up tells
 * that no program has the port open, and what the MCU then sends is thrown away, as a USB serial chip does.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "machine.h"

#define SLICE_S 0.0005
#define LATE_S 0.25 /* when the real time has run away by this much, it is let go */

struct terminal terminal;

static int master = -1;
static char slave_name[128];
static bool attached;
static int watch = -1; /* inotify: a port that is closed and opened between two looks at it was opened all the same */
static int openers;
static double epoch_s;
static struct {
    uint8_t byte[65536];
    size_t count;
} ring; /* what the terminal could not take yet */

static double monotonic_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double terminal_epoch_s(void) { return epoch_s; }

bool terminal_plug(void) {
    int slave;
    struct termios raw;
    if (master >= 0) return true;
    if (openpty(&master, &slave, slave_name, NULL, NULL)) return false;
    tcgetattr(slave, &raw);
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
    close(slave);
    watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (watch < 0 || inotify_add_watch(watch, slave_name, IN_OPEN | IN_CLOSE) < 0) die("%s: cannot watch", slave_name);
    openers = 0;
    fcntl(master, F_SETFL, O_NONBLOCK);
    fcntl(master, F_SETFD, FD_CLOEXEC);
    char beside[4096];
    if (snprintf(beside, sizeof beside, "%s.%d", terminal.link, (int)getpid()) >= (int)sizeof beside) return false;
    unlink(beside);
    if (symlink(slave_name, beside) || rename(beside, terminal.link)) {
        terminal_unplug();
        return false;
    }
    ring.count = 0;
    attached = false;
    return true;
}

void terminal_unplug(void) {
    if (master < 0) return;
    close(watch);
    close(master);
    watch = master = -1;
    uart_cut();
    char target[128];
    ssize_t n = readlink(terminal.link, target, sizeof target - 1);
    if (n > 0 && (size_t)n == strlen(slave_name) && !memcmp(target, slave_name, (size_t)n)) unlink(terminal.link);
}

static void write_out(void) {
    if (master < 0 || !attached || !ring.count) return;
    ssize_t n = write(master, ring.byte, ring.count);
    if (n <= 0) return;
    ring.count -= (size_t)n;
    memmove(ring.byte, ring.byte + n, ring.count);
}

static void take_chunk(double at_s, const uint8_t *bytes, size_t count) {
    (void)at_s;
    if (!attached) {
        machine.count.unread_bytes += count;
        return;
    }
    size_t room = sizeof ring.byte - ring.count, taken = count < room ? count : room;
    memcpy(ring.byte + ring.count, bytes, taken);
    ring.count += taken;
    machine.count.ring_dropped += count - taken;
}

/* True when a program has opened the port that nobody had open. */
static bool just_opened(void) {
    union {
        struct inotify_event event;
        char bytes[4096];
    } buffer;
    bool opened = false;
    ssize_t n;
    while (watch >= 0 && (n = read(watch, &buffer, sizeof buffer)) > 0) {
        for (ssize_t at = 0; at < n;) {
            const struct inotify_event *event = (const void *)(buffer.bytes + at);
            if (event->mask & IN_OPEN && openers++ == 0) opened = true;
            if (event->mask & IN_CLOSE && openers > 0) openers--;
            at += (ssize_t)(sizeof *event + event->len);
        }
    }
    return opened;
}

static void look_at_reader(void) {
    struct pollfd poll_master = {.fd = master, .events = POLLIN};
    bool opened = just_opened();
    attached = master >= 0 && poll(&poll_master, 1, 0) >= 0 && !(poll_master.revents & POLLHUP);
    if (opened) {
        ring.count = 0;
        if (terminal.reset_on_open) mcu_reset("external"); /* DTR, through the board's capacitor */
    }
    if (!attached || !(poll_master.revents & POLLIN)) return;
    uint8_t bytes[4096];
    ssize_t n = read(master, bytes, sizeof bytes);
    if (n > 0) uart_send(bytes, (size_t)n, machine.now_s);
}

static void catch_up(void) {
    double wanted_s = monotonic_s() - epoch_s;
    if (wanted_s - machine.now_s > LATE_S) {
        machine.count.slips++;
        epoch_s += wanted_s - machine.now_s - SLICE_S;
        wanted_s = machine.now_s + SLICE_S;
    }
    while (machine.now_s < wanted_s) {
        double to_s = machine.now_s + SLICE_S < wanted_s ? machine.now_s + SLICE_S : wanted_s;
        mcu_run_to(to_s);
        usb_deliver(to_s, take_chunk);
        look_at_reader();
        write_out();
    }
}

void terminal_run(void) {
    epoch_s = monotonic_s();
    struct pollfd poll_control = {.fd = control_fd(), .events = POLLIN};
    bool goes_on = true;
    while (goes_on) {
        catch_up();
        if (poll(&poll_control, 1, 1) > 0) goes_on = control_serve();
    }
    terminal_unplug();
}
