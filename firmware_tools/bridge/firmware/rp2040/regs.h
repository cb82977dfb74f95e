/* Registers of the RP2040 that the bridge uses (data sheet 2.2 and the tables of each unit). */
#ifndef EDGEJOULE_RP2040_REGS_H
#define EDGEJOULE_RP2040_REGS_H

#include <stdint.h>

#define REG(address) (*(volatile uint32_t *)(address))
/* Aliases of each peripheral register that set or clear single bits (2.1.2). */
#define SET(address) REG((address) + 0x2000)
#define CLEAR(address) REG((address) + 0x3000)

#define SSI 0x18000000
#define SSI_CTRLR0 (SSI + 0x00)
#define SSI_SSIENR (SSI + 0x08)
#define SSI_SER (SSI + 0x10)
#define SSI_BAUDR (SSI + 0x14)
#define SSI_SR (SSI + 0x28)
#define SSI_DR0 (SSI + 0x60)

#define CLK_REF_CTRL 0x40008030
#define CLK_REF_SELECTED 0x40008038
#define CLK_SYS_CTRL 0x4000803C
#define CLK_SYS_SELECTED 0x40008044
#define CLK_PERI_CTRL 0x40008048

#define RESETS_RESET 0x4000C000
#define RESETS_DONE 0x4000C008
#define RESET_I2C0 (1u << 3)
#define RESET_IO_BANK0 (1u << 5)
#define RESET_PADS_BANK0 (1u << 8)
#define RESET_PLL_SYS (1u << 12)
#define RESET_TIMER (1u << 21)
#define RESET_UART0 (1u << 22)

#define PSM_WDSEL 0x40010008

#define GPIO_CTRL(pin) (0x40014004 + 8 * (pin))
#define GPIO_INTR(pin) (0x400140F0 + 4 * ((pin) / 8))
#define GPIO_INTE(pin) (0x40014100 + 4 * ((pin) / 8))
#define QSPI_SS_CTRL 0x4001800C
#define PAD(pin) (0x4001C004 + 4 * (pin))

#define XOSC_CTRL 0x40024000
#define XOSC_STATUS 0x40024004
#define XOSC_STARTUP 0x4002400C

#define PLL_SYS_CS 0x40028000
#define PLL_SYS_PWR 0x40028004
#define PLL_SYS_FBDIV 0x40028008
#define PLL_SYS_PRIM 0x4002800C

#define UART_DR 0x40034000
#define UART_IBRD 0x40034024
#define UART_FBRD 0x40034028
#define UART_LCR_H 0x4003402C
#define UART_CR 0x40034030
#define UART_IMSC 0x40034038
#define UART_MIS 0x40034040
#define UART_ICR 0x40034044

#define I2C_CON 0x40044000
#define I2C_TAR 0x40044004
#define I2C_DATA_CMD 0x40044010
#define I2C_FS_SCL_HCNT 0x4004401C
#define I2C_FS_SCL_LCNT 0x40044020
#define I2C_INTR_STAT 0x4004402C
#define I2C_INTR_MASK 0x40044030
#define I2C_CLR_INTR 0x40044040
#define I2C_CLR_TX_ABRT 0x40044054
#define I2C_CLR_STOP_DET 0x40044060
#define I2C_ENABLE 0x4004406C
#define I2C_RXFLR 0x40044078
#define I2C_SDA_HOLD 0x4004407C
#define I2C_TX_ABRT_SOURCE 0x40044080
#define I2C_FS_SPKLEN 0x400440A0

#define TIMER_ALARM(n) (0x40054010 + 4 * (n))
#define TIMER_RAW_HIGH 0x40054024
#define TIMER_RAW_LOW 0x40054028
#define TIMER_INTR 0x40054034
#define TIMER_INTE 0x40054038

#define WATCHDOG_CTRL 0x40058000
#define WATCHDOG_LOAD 0x40058004
#define WATCHDOG_REASON 0x40058008
#define WATCHDOG_SCRATCH(n) (0x4005800C + 4 * (n))
#define WATCHDOG_TICK 0x4005802C

#define CHIP_RESET 0x40064008

#define SIO_GPIO_IN 0xD0000004
#define SIO_GPIO_OUT_CLR 0xD0000018
#define SIO_GPIO_OE_SET 0xD0000024
#define SIO_GPIO_OE_CLR 0xD0000028

#define NVIC_ISER 0xE000E100
#define NVIC_ICPR 0xE000E280
#define NVIC_IPR(irq) (0xE000E400 + ((irq) & ~3u))
#define VTOR 0xE000ED08

enum { IRQ_TIMER_0 = 0, IRQ_TIMER_1 = 1, IRQ_IO_BANK0 = 13, IRQ_UART0 = 20, IRQ_I2C0 = 23 };

/* Interrupts off; what to give to restore_interrupts. */
static inline uint32_t no_interrupts(void)
{
    uint32_t primask;
    __asm__ volatile("mrs %0, primask\n cpsid i" : "=r"(primask) : : "memory");
    return primask;
}

static inline void restore_interrupts(uint32_t primask)
{
    __asm__ volatile("msr primask, %0" : : "r"(primask) : "memory");
}

#endif
