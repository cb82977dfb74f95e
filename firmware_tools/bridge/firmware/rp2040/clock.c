#include "clock.h"

#include <stdbool.h>

#include "../core/hal.h"
#include "pins.h"
#include "regs.h"

enum { EDGES = 8, EDGE_LOW = 4, EDGE_HIGH = 8 };
static struct marker_edge edges[EDGES];
static volatile uint8_t edge_head, edge_tail;
static uint16_t edge_seq;

#define MARKER_SHIFT (PIN_MARKER % 8 * 4)

void clock_begin(void)
{
    REG(WATCHDOG_TICK) = 1u << 9 | CRYSTAL_HZ / 1000000; /* of the timer too */
    REG(TIMER_INTE) = 1u << ALARM_SLEEP | 1u << ALARM_TRANSFER;
    REG(PAD(PIN_MARKER)) = PAD_INPUT | PAD_SCHMITT | PAD_PULL_DOWN;
    REG(GPIO_CTRL(PIN_MARKER)) = FUNCTION_SIO;
    clock_wait_us(2); /* the pull-down */
    REG(GPIO_INTR(PIN_MARKER)) = (uint32_t)(EDGE_LOW | EDGE_HIGH) << MARKER_SHIFT;
    REG(GPIO_INTE(PIN_MARKER)) = (uint32_t)(EDGE_LOW | EDGE_HIGH) << MARKER_SHIFT;
    /* The others may be interrupted by the marker: 40h is a lower priority than 0. */
    REG(NVIC_IPR(IRQ_TIMER_0)) = 0x4040;
    REG(NVIC_IPR(IRQ_UART0)) = 0x40000040; /* UART0 and I2C0 */
    REG(NVIC_ISER) = 1u << IRQ_TIMER_0 | 1u << IRQ_TIMER_1 | 1u << IRQ_IO_BANK0;
}

/* The latched pair of registers is not used: an interrupt between its halves would latch anew. */
uint64_t hal_now(void)
{
    uint32_t high, low;
    do {
        high = REG(TIMER_RAW_HIGH);
        low = REG(TIMER_RAW_LOW);
    } while (high != REG(TIMER_RAW_HIGH));
    return (uint64_t)high << 32 | low;
}

uint32_t hal_ticks(void)
{
    return REG(TIMER_RAW_LOW);
}

void clock_alarm_interrupt(void)
{
    REG(TIMER_INTR) = 1u << ALARM_SLEEP | 1u << ALARM_TRANSFER;
}

void clock_alarm(unsigned alarm, uint32_t tick)
{
    REG(TIMER_ALARM(alarm)) = tick;
}

void clock_wait_us(uint32_t us)
{
    uint32_t begin = hal_ticks();
    while (hal_ticks() - begin <= us)
        ;
}

void clock_sleep(void)
{
    __asm__ volatile("wfi" : : : "memory"); /* a pending interrupt ends it though interrupts are off */
}

void clock_marker_interrupt(void)
{
    uint64_t now = hal_now();
    uint32_t seen = REG(GPIO_INTR(PIN_MARKER)) >> MARKER_SHIFT & (EDGE_LOW | EDGE_HIGH);
    REG(GPIO_INTR(PIN_MARKER)) = seen << MARKER_SHIFT;
    if (!seen)
        return;
    /* Both: it went and came back before it could be stamped. The number of the second edge is missing, so the host
     * knows. */
    bool both = seen == (EDGE_LOW | EDGE_HIGH);
    bool high = both ? !(REG(SIO_GPIO_IN) >> PIN_MARKER & 1) : seen == EDGE_HIGH;
    uint8_t head = edge_head;
    uint8_t next = (uint8_t)((head + 1) % EDGES);
    if (next != edge_tail) {
        edges[head].tick = now;
        edges[head].seq = edge_seq;
        edges[head].level = high;
        edge_head = next;
    }
    edge_seq = (uint16_t)(edge_seq + (both ? 2 : 1));
}

bool hal_marker_take(struct marker_edge *edge)
{
    uint8_t tail = edge_tail;
    if (tail == edge_head)
        return false;
    *edge = edges[tail];
    edge_tail = (uint8_t)((tail + 1) % EDGES);
    return true;
}
