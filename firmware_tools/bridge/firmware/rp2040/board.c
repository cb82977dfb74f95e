/* Who this board is, how it came to start, and how it starts again. */
#include <string.h>

#include "../core/bridge.h"
#include "eeprom.h"
#include "flash.h"
#include "regs.h"
#include "watchdog.h"

#ifndef EJ_SOURCES
#define EJ_SOURCES 0, 0, 0, 0
#endif
#ifndef EJ_CHANGED
#define EJ_CHANGED 1
#endif

/* The build puts the identity of the image after the tag; volatile, so that the blank one is not folded in. */
static const volatile struct {
    char tag[8];
    uint8_t build[8];
} IDENTITY = {{'E', 'J', '-', 'B', 'U', 'I', 'L', 'D'}, {0}};

static const uint8_t SOURCES[4] = {EJ_SOURCES};

enum { BOARD_RP2040 = 2 };
enum { POWER_ON = 1, EXTERNAL = 2, BY_WATCHDOG = 8 };
enum { HAD_RUN = 1 << 16 };

/* Scratch registers of the watchdog: they hold over its resets, and are 0 after any other (data sheet 4.7.4). */
enum { KEPT_BOOT = 0, KEPT_BOOTS = 1, KEPT_MARK = 2 };
#define WARM 0xE15A0000u

static uint16_t boots;

enum { LIMIT_US = 250000 };

void watchdog_begin(void)
{
    REG(WATCHDOG_CTRL) = 0;
    REG(PSM_WDSEL) = 0x1FFFC; /* all but the oscillators */
    watchdog_feed();
    REG(WATCHDOG_CTRL) = 1u << 30;
}

void watchdog_feed(void)
{
    REG(WATCHDOG_LOAD) = 2 * LIMIT_US; /* it counts twice each microsecond (erratum RP2040-E1) */
}

static uint8_t reset_cause(void)
{
    if (REG(WATCHDOG_REASON) & 3)
        return BY_WATCHDOG;
    return REG(CHIP_RESET) & HAD_RUN ? EXTERNAL : POWER_ON;
}

void hal_board(struct board *board)
{
    uint32_t kept = REG(WATCHDOG_SCRATCH(KEPT_BOOTS));
    board->board = BOARD_RP2040;
    board->features = FEATURE_MARKER | FEATURE_PERSISTENT | FEATURE_HANG | FEATURE_BOOTLOADER;
    board->reset_cause = reset_cause();
    board->changed = EJ_CHANGED;
    board->cold = REG(WATCHDOG_SCRATCH(KEPT_MARK)) != (WARM | (kept & 0xFFFF));
    board->warm_boot = (uint16_t)REG(WATCHDOG_SCRATCH(KEPT_BOOT));
    board->boots = boots = (uint16_t)(board->cold ? 1 : kept + 1);
    memcpy(board->git, SOURCES, sizeof board->git);
    for (unsigned i = 0; i < sizeof board->build; i++)
        board->build[i] = IDENTITY.build[i];
    flash_uid(board->default_uid);
}

void hal_keep_boot(uint16_t boot)
{
    REG(WATCHDOG_SCRATCH(KEPT_MARK)) = 0;
    REG(WATCHDOG_SCRATCH(KEPT_BOOT)) = boot;
    REG(WATCHDOG_SCRATCH(KEPT_BOOTS)) = boots;
    REG(WATCHDOG_SCRATCH(KEPT_MARK)) = WARM | boots;
}

/* The ROM's own loader: the drive RPI-RP2 (data sheet 2.8.3.1.4). */
static void restart_in_bootloader(void)
{
    typedef void *(*lookup)(uint16_t *table, uint32_t code);
    typedef void (*usb_boot)(uint32_t led_mask, uint32_t without);
    uint32_t table = *(const volatile uint16_t *)0x14, find = *(const volatile uint16_t *)0x18;
    usb_boot enter = (usb_boot)((lookup)find)((uint16_t *)table, 'U' | 'B' << 8);
    enter(0, 0);
}

void hal_restart(enum restart how)
{
    if (how == RESTART_BY_WATCHDOG)
        for (;;)
            ;
    /* A flash that is busy would keep the ROM from reading it. */
    while (eeprom_pending()) {
        watchdog_feed();
        eeprom_poll();
    }
    (void)no_interrupts();
    if (how == RESTART_IN_BOOTLOADER) {
        REG(WATCHDOG_CTRL) = 0;
        restart_in_bootloader();
    }
    REG(WATCHDOG_CTRL) = 1u << 31;
    for (;;)
        ;
}
