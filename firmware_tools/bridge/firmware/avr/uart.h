#ifndef EDGEJOULE_UART_H
#define EDGEJOULE_UART_H

void uart_begin(void);

#endif
