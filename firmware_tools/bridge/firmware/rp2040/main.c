#include "../core/bridge.h"
#include "clock.h"
#include "eeprom.h"
#include "i2c.h"
#include "regs.h"
#include "uart.h"
#include "watchdog.h"

enum {
    SLEEP_MAX_US = 2000,
    SLEEP_MIN_US = 5 /* going to sleep and coming back takes this */
};

static struct bridge bridge;

int main(void)
{
    const uint32_t used = RESET_IO_BANK0 | RESET_PADS_BANK0 | RESET_TIMER | RESET_UART0 | RESET_I2C0;
    CLEAR(RESETS_RESET) = used;
    while ((REG(RESETS_DONE) & used) != used)
        ;
    clock_begin();
    watchdog_begin();
    eeprom_begin();
    uart_begin();
    i2c_begin();
    watchdog_feed();
    bridge_begin(&bridge);
    for (;;) {
        watchdog_feed();
        bridge_poll(&bridge);
        eeprom_poll();
        uint32_t before = no_interrupts();
        uint16_t idle_us = bridge_idle_us(&bridge, SLEEP_MAX_US);
        if (idle_us > SLEEP_MIN_US) {
            if (idle_us != IDLE_UNTIL_INTERRUPT)
                clock_alarm(ALARM_SLEEP, hal_ticks() + idle_us);
            clock_sleep();
        }
        restore_interrupts(before);
    }
}
