#include "clock.h"

#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>
#include <util/atomic.h>

#include "../core/hal.h"
#include "pins.h"

/* Overflows of 32.768 ms: 32 bits last four years. */
static volatile uint32_t overflows;

enum { EDGES = 8 };
static struct {
    uint32_t overflows;
    uint16_t capture;
    uint16_t seq;
    uint8_t level;
} edges[EDGES];
static volatile uint8_t edge_head, edge_tail;
static uint16_t edge_seq;

void clock_begin(void)
{
    TCCR1A = 0;
    TCCR1B = _BV(ICNC1) | _BV(CS11); /* clk/8; an edge counts when it holds for four cycles */
    if (!MARKER_READ())
        TCCR1B |= _BV(ICES1);
    TIFR1 = _BV(ICF1) | _BV(TOV1) | _BV(OCF1A);
    TIMSK1 = _BV(TOIE1) | _BV(ICIE1) | _BV(OCIE1A);
}

ISR(TIMER1_OVF_vect)
{
    overflows++;
}

/* Ends clock_sleep; nothing else to do. It also comes once in 32 ms by itself, which is less than turning it on and
 * off for each sleep would cost. */
EMPTY_INTERRUPT(TIMER1_COMPA_vect)

/* An overflow that happened, but is not counted yet, belongs to a count that has begun again. */
static uint32_t overflows_at(uint16_t count)
{
    uint32_t whole = overflows;
    if ((TIFR1 & _BV(TOV1)) && count < 0x8000)
        whole++;
    return whole;
}

static uint32_t low_half(uint32_t whole, uint16_t count)
{
    uint32_t low = ((whole & 0xFFFF) << 16 | count) >> 1;
    return whole & 0x10000 ? low | 0x80000000 : low;
}

ISR(TIMER1_CAPT_vect)
{
    uint16_t capture = ICR1;
    uint8_t rising = TCCR1B & _BV(ICES1);
    uint8_t head = edge_head;
    uint8_t next = (uint8_t)((head + 1) % EDGES);
    if (next != edge_tail) {
        edges[head].overflows = overflows_at(capture);
        edges[head].capture = capture;
        edges[head].seq = edge_seq;
        edges[head].level = rising ? 1 : 0;
        edge_head = next;
    }
    edge_seq++;
    TCCR1B ^= _BV(ICES1);
    /* Back already: that edge came too fast to be stamped. Its number is missing, so the host knows. */
    if (!MARKER_READ() == !!rising) {
        edge_seq++;
        TCCR1B ^= _BV(ICES1);
    }
    /* Changing the edge may set the flag (data sheet, 16.6.3). An overflow that waits is counted here: simulators
     * clear it together with the other flags. */
    if (TIFR1 & _BV(TOV1))
        overflows++;
    TIFR1 = _BV(ICF1) | _BV(TOV1);
}

bool hal_marker_take(struct marker_edge *edge)
{
    uint8_t tail = edge_tail;
    if (tail == edge_head)
        return false;
    edge->tick = ((uint64_t)edges[tail].overflows << 16 | edges[tail].capture) >> 1;
    edge->seq = edges[tail].seq;
    edge->level = edges[tail].level;
    edge_tail = (uint8_t)((tail + 1) % EDGES);
    return true;
}

uint32_t clock_ticks_in_interrupt(void)
{
    uint16_t count = TCNT1;
    return low_half(overflows_at(count), count);
}

uint32_t hal_ticks(void)
{
    uint32_t ticks;
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) ticks = clock_ticks_in_interrupt();
    return ticks;
}

uint64_t hal_now(void)
{
    uint32_t whole;
    uint16_t count;
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE)
    {
        count = TCNT1;
        whole = overflows_at(count);
    }
    return ((uint64_t)whole << 16 | count) >> 1;
}

void clock_sleep(void)
{
    set_sleep_mode(SLEEP_MODE_IDLE);
    sleep_enable();
    sei(); /* takes effect after the next instruction: nothing can come between the check and the sleep */
    sleep_cpu();
    sleep_disable();
}

void clock_sleep_for(uint16_t us)
{
    OCR1A = (uint16_t)(TCNT1 + 2 * us);
    clock_sleep();
}
