/* Pins and rates of the RP2040 (Raspberry Pi Pico). */
#ifndef EDGEJOULE_RP2040_PINS_H
#define EDGEJOULE_RP2040_PINS_H

enum { PIN_TX = 0, PIN_RX = 1, PIN_SDA = 4, PIN_SCL = 5, PIN_MARKER = 6 };
enum { FUNCTION_UART = 2, FUNCTION_I2C = 3, FUNCTION_SIO = 5 };

/* Bits of a pad. */
enum { PAD_SCHMITT = 1 << 1, PAD_PULL_DOWN = 1 << 2, PAD_PULL_UP = 1 << 3, PAD_4MA = 1 << 4, PAD_INPUT = 1 << 6 };

#define CRYSTAL_HZ 12000000u
#define CPU_HZ 48000000u
#define I2C_HZ 400000u
#define BAUD_RATE 500000u

#endif
