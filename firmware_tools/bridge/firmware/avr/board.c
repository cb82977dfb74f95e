/* Who this board is, and how it came to start. */
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/pgmspace.h>
#include <avr/wdt.h>
#include <string.h>

#include "../core/bridge.h"

#ifndef EJ_SOURCES
#define EJ_SOURCES 0, 0, 0, 0
#endif
#ifndef EJ_CHANGED
#define EJ_CHANGED 1
#endif

/* The build puts the identity of the image after the tag. */
static const struct {
    char tag[8];
    uint8_t build[8];
} IDENTITY PROGMEM = {{'E', 'J', '-', 'B', 'U', 'I', 'L', 'D'}, {0}};

static const uint8_t SOURCES[4] = {EJ_SOURCES};

enum { BOARD_ATMEGA328P = 1, WARM = 0xE15A };

/* Not cleared at start: it holds over every reset that leaves the supply on. */
static struct {
    uint16_t mark;
    uint16_t boots;
    uint16_t boot;
    uint16_t check;
} kept __attribute__((section(".noinit")));

static uint8_t from_bootloader __attribute__((section(".noinit")));
static uint8_t mcusr_at_start __attribute__((section(".noinit")));

/* Optiboot (4.6 and later) clears MCUSR and hands its value over in r2, which later start-up code may use. */
__attribute__((naked, used, section(".init0"))) void keep_r2(void)
{
    __asm__ volatile("sts %0, r2" : : "i"(&from_bootloader));
}

/* After a reset by the watchdog it stays on, at its shortest time. */
__attribute__((naked, used, section(".init3"))) void stop_watchdog(void)
{
    mcusr_at_start = MCUSR;
    MCUSR = 0;
    wdt_disable();
}

static uint16_t check_of(void)
{
    return (uint16_t)(kept.mark ^ (kept.boots * 3u) ^ (kept.boot * 5u));
}

void hal_board(struct board *board)
{
    uint8_t cause = mcusr_at_start & 0x0F;
    if (!cause && !(from_bootloader & 0xF0))
        cause = from_bootloader;
    board->board = BOARD_ATMEGA328P;
    board->features = FEATURE_MARKER | FEATURE_PERSISTENT | FEATURE_HANG;
    board->reset_cause = cause;
    board->changed = EJ_CHANGED;
    board->cold = kept.mark != WARM || kept.check != check_of();
    board->warm_boot = kept.boot;
    board->boots = (uint16_t)(board->cold ? 1 : kept.boots + 1);
    memcpy(board->git, SOURCES, sizeof board->git);
    memcpy_P(board->build, IDENTITY.build, sizeof board->build);
    memset(board->default_uid, 0, sizeof board->default_uid);
    kept.mark = WARM;
    kept.boots = board->boots;
}

void hal_keep_boot(uint16_t boot)
{
    kept.boot = boot;
    kept.check = check_of();
}

void hal_restart(enum restart how)
{
    (void)how; /* both end in the watchdog; there is no way into Optiboot without the reset line */
    if (how == RESTART_NOW) {
        cli();
        wdt_enable(WDTO_15MS);
    }
    for (;;)
        ;
}
