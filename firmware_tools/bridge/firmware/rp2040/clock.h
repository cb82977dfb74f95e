/* The clock of 1 us since boot, the alarm that ends a sleep, and the stamp of marker edges. */
#ifndef EDGEJOULE_RP2040_CLOCK_H
#define EDGEJOULE_RP2040_CLOCK_H

#include <stdint.h>

void clock_begin(void);
void clock_alarm_interrupt(void);
void clock_marker_interrupt(void);

/* Wakes the processor at a tick if it sleeps then. One alarm for sleeps, one for transfers. */
enum { ALARM_SLEEP = 0, ALARM_TRANSFER = 1 };
void clock_alarm(unsigned alarm, uint32_t tick);

void clock_wait_us(uint32_t us);

/* Sleeps until an interrupt comes. Interrupts are off on entry, so that none can come between a check and the sleep. */
void clock_sleep(void);

#endif
