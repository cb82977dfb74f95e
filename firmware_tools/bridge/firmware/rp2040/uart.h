#ifndef EDGEJOULE_RP2040_UART_H
#define EDGEJOULE_RP2040_UART_H

void uart_begin(void);
void uart_interrupt(void);

#endif
