/* Timer 1: a free-running clock of 0.5 us, the alarm that ends a sleep, and the stamp of marker edges. */
#ifndef EDGEJOULE_CLOCK_H
#define EDGEJOULE_CLOCK_H

#include <stdint.h>

void clock_begin(void);

/* Low half of the tick; for interrupts. */
uint32_t clock_ticks_in_interrupt(void);

/* Sleeps until an interrupt comes. Interrupts are off on entry and on at the end. */
void clock_sleep(void);

/* The same, at most for the given time, under 30 ms. */
void clock_sleep_for(uint16_t us);

#endif
