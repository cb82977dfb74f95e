/* Pins and rates of the ATmega328P at 16 MHz (Arduino Uno and Nano). */
#ifndef EDGEJOULE_PINS_H
#define EDGEJOULE_PINS_H

#include <avr/io.h>

#define SCL_HIGH() (DDRC &= (uint8_t)~_BV(PC5)) /* the pull-up raises it */
#define SCL_LOW() (DDRC |= _BV(PC5))            /* PORTC5 stays 0 while the two-wire unit is off */
#define SDA_HIGH() (DDRC &= (uint8_t)~_BV(PC4))
#define SDA_LOW() (DDRC |= _BV(PC4))
#define SDA_READ() (PINC & _BV(PC4))
#define MARKER_READ() (PINB & _BV(PB0)) /* ICP1, digital pin 8 */

#define I2C_HZ 400000UL
#define BAUD_RATE 500000UL

#endif
