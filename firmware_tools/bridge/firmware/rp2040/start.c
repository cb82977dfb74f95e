/* From the second stage of the boot to main: clocks, then the program is copied to RAM. What is here runs in flash. */
#include "clock.h"
#include "i2c.h"
#include "pins.h"
#include "regs.h"
#include "uart.h"

#define IN_FLASH __attribute__((section(".flash")))

extern uint32_t program_begin[], program_end[], program_in_flash[], bss_begin[], bss_end[], stack_top[];

int main(void);

/* What no handler expects waits for the watchdog. */
static void hang(void)
{
    for (;;)
        ;
}

typedef void (*vector)(void);

__attribute__((section(".vectors"), used, aligned(256))) static const vector VECTORS[16 + 26] = {
    [0] = (vector)stack_top, [1] = hang, [2] = hang, [3] = hang, [11] = hang, [14] = hang, [15] = hang,
    [16 + IRQ_TIMER_0] = clock_alarm_interrupt,
    [16 + IRQ_TIMER_1] = clock_alarm_interrupt,
    [16 + IRQ_IO_BANK0] = clock_marker_interrupt,
    [16 + IRQ_UART0] = uart_interrupt,
    [16 + IRQ_I2C0] = i2c_interrupt,
};

/* 48 MHz from the crystal of 12 MHz: 1200 MHz divided by 5 and 5 (data sheet 2.18.2). The data rate of the line is a
 * whole part of it. */
IN_FLASH static void start_clocks(void)
{
    REG(XOSC_STARTUP) = (CRYSTAL_HZ / 1000 + 128) / 256; /* 1 ms */
    REG(XOSC_CTRL) = 0xFABAA0;                           /* on, 1 to 15 MHz */
    while (!(REG(XOSC_STATUS) >> 31))
        ;
    /* After a reset by the watchdog the processor may still run from the PLL that is set up anew. */
    CLEAR(CLK_SYS_CTRL) = 1;
    while (REG(CLK_SYS_SELECTED) != 1)
        ;
    REG(CLK_REF_CTRL) = 2; /* crystal */
    while (REG(CLK_REF_SELECTED) != 4)
        ;
    SET(RESETS_RESET) = RESET_PLL_SYS;
    CLEAR(RESETS_RESET) = RESET_PLL_SYS;
    while (!(REG(RESETS_DONE) & RESET_PLL_SYS))
        ;
    REG(PLL_SYS_CS) = 1;
    REG(PLL_SYS_FBDIV) = 100;
    CLEAR(PLL_SYS_PWR) = 1u << 0 | 1u << 5; /* power, oscillator */
    while (!(REG(PLL_SYS_CS) >> 31))
        ;
    REG(PLL_SYS_PRIM) = 5u << 16 | 5u << 12;
    CLEAR(PLL_SYS_PWR) = 1u << 3; /* dividers */
    REG(CLK_SYS_CTRL) = 0;        /* auxiliary source: this PLL */
    SET(CLK_SYS_CTRL) = 1;
    while (REG(CLK_SYS_SELECTED) != 2)
        ;
    REG(CLK_PERI_CTRL) = 1u << 11; /* as the processor */
}

IN_FLASH __attribute__((used, noreturn)) void start(void)
{
    start_clocks();
    const volatile uint32_t *from = program_in_flash;
    for (volatile uint32_t *to = program_begin; to < program_end;)
        *to++ = *from++;
    for (volatile uint32_t *to = bss_begin; to < bss_end;)
        *to++ = 0;
    REG(VTOR) = (uint32_t)VECTORS;
    ((int (*volatile)(void))main)(); /* too far away for a relative call */
    for (;;)
        ;
}

__attribute__((section(".start_vectors"), used)) static const vector START_VECTORS[2] = {(vector)stack_top, (vector)start};
