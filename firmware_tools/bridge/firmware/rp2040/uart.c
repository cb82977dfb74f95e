/* UART 0 at 500 kBaud. Its own queues stay off, so that each byte is stamped as it comes; bytes pass through the queues
 * of the core. */
#include "uart.h"

#include "../core/hal.h"
#include "../core/queue.h"
#include "pins.h"
#include "regs.h"

enum { INTERRUPT_RX = 1 << 4, INTERRUPT_TX = 1 << 5 };
enum { DR_FRAMING = 1 << 8, DR_BREAK = 1 << 10, DR_OVERRUN = 1 << 11 };

static volatile uint16_t errors;
static volatile uint32_t zero_at;

void uart_begin(void)
{
    /* 16ths of the clock in 64ths; both registers take effect with the write of LCR_H. */
    REG(UART_IBRD) = CPU_HZ / 16 / BAUD_RATE;
    REG(UART_FBRD) = CPU_HZ / 16 % BAUD_RATE * 64 / BAUD_RATE;
    REG(UART_LCR_H) = 3u << 5; /* eight bits */
    REG(UART_CR) = 1u << 0 | 1u << 8 | 1u << 9;
    REG(PAD(PIN_TX)) = PAD_4MA;
    REG(PAD(PIN_RX)) = PAD_INPUT | PAD_SCHMITT | PAD_PULL_UP;
    REG(GPIO_CTRL(PIN_TX)) = FUNCTION_UART;
    REG(GPIO_CTRL(PIN_RX)) = FUNCTION_UART;
    REG(UART_ICR) = 0x7FF;
    REG(UART_IMSC) = INTERRUPT_RX;
    REG(NVIC_ISER) = 1u << IRQ_UART0;
}

static void receive(void)
{
    uint32_t data = REG(UART_DR);
    if (data & (DR_FRAMING | DR_BREAK | DR_OVERRUN)) {
        if (errors != 0xFFFF)
            errors++;
        if (data & (DR_FRAMING | DR_BREAK))
            return;
    }
    uint8_t byte = (uint8_t)data;
    if (!byte)
        zero_at = hal_ticks();
    rx_put(byte);
}

/* The interrupt comes when the transmitter has taken the byte that waited, so the first byte needs a push. */
static void transmit(void)
{
    uint8_t byte;
    REG(UART_ICR) = INTERRUPT_TX;
    if (tx_take(&byte)) {
        SET(UART_IMSC) = INTERRUPT_TX;
        REG(UART_DR) = byte;
    } else {
        CLEAR(UART_IMSC) = INTERRUPT_TX;
    }
}

void uart_interrupt(void)
{
    uint32_t pending = REG(UART_MIS);
    if (pending & INTERRUPT_RX)
        receive();
    if (pending & INTERRUPT_TX)
        transmit();
}

void hal_uart_kick(void)
{
    uint32_t before = no_interrupts();
    if (!(REG(UART_IMSC) & INTERRUPT_TX))
        transmit();
    restore_interrupts(before);
}

uint32_t hal_uart_zero_at(void)
{
    return zero_at;
}

uint16_t hal_uart_errors(void)
{
    return errors;
}
