/* USART 0 at 500 kBaud, which 16 MHz makes exactly. Bytes pass through the queues of the core. */
#include <avr/interrupt.h>
#include <avr/io.h>
#include <util/atomic.h>

#include "../core/hal.h"
#include "../core/queue.h"
#include "clock.h"
#include "pins.h"
#include "uart.h"

static volatile uint16_t errors;
static volatile uint32_t zero_at;

void uart_begin(void)
{
    UCSR0A = _BV(U2X0);
    UBRR0H = 0;
    UBRR0L = (uint8_t)(F_CPU / 8 / BAUD_RATE - 1); /* last: simulators compute the rate when it is written */
    UCSR0C = _BV(UCSZ01) | _BV(UCSZ00);
    UCSR0B = _BV(RXCIE0) | _BV(RXEN0) | _BV(TXEN0);
}

ISR(USART_RX_vect)
{
    uint8_t status = UCSR0A;
    uint8_t byte = UDR0;
    if (status & (_BV(FE0) | _BV(DOR0))) {
        if (errors != 0xFFFF)
            errors++;
        if (status & _BV(FE0))
            return;
    }
    if (!byte)
        zero_at = clock_ticks_in_interrupt();
    rx_put(byte);
}

ISR(USART_UDRE_vect)
{
    uint8_t byte;
    if (tx_take(&byte))
        UDR0 = byte;
    /* Off with the last byte, not one interrupt later: some simulators wait for a write in each. */
    if (!tx_used())
        UCSR0B &= (uint8_t)~_BV(UDRIE0);
}

void hal_uart_kick(void)
{
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) UCSR0B |= _BV(UDRIE0);
}

uint32_t hal_uart_zero_at(void)
{
    uint32_t tick;
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) tick = zero_at;
    return tick;
}

uint16_t hal_uart_errors(void)
{
    uint16_t count;
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) count = errors;
    return count;
}
