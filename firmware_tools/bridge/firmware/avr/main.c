#include <avr/interrupt.h>
#include <avr/wdt.h>

#include "../core/bridge.h"
#include "clock.h"
#include "twi.h"
#include "uart.h"

enum {
    SLEEP_MAX_US = 2000, /* wakes in time for the timeout of a transfer */
    SLEEP_MIN_US = 12    /* going to sleep and coming back takes this */
};

static struct bridge bridge;

int main(void)
{
    wdt_enable(WDTO_250MS);
    clock_begin();
    uart_begin();
    twi_begin();
    sei();
    bridge_begin(&bridge);
    for (;;) {
        wdt_reset();
        bridge_poll(&bridge);
        cli();
        uint16_t idle_us = bridge_idle_us(&bridge, SLEEP_MAX_US);
        if (idle_us == IDLE_UNTIL_INTERRUPT)
            clock_sleep();
        else if (idle_us > SLEEP_MIN_US)
            clock_sleep_for(idle_us);
        sei();
    }
}
