/* Ask the model at work on this board: raw values from a file, the best class to stdout.
 *
 *   cc -std=c11 -o predict predict.c
 *   ./predict /var/lib/edgejoule/model.sock example.raw 1,28,28,1
 *
 * The file has uint8 values in C order, as many as the shape says. The protocol is in docs/model.md: one line of JSON,
 * then the bytes; one line of JSON back. No library but libc is needed.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MOST_BYTES = 16 << 20, MOST_ANSWER = 1 << 20 };

static int send_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent <= 0)
            return -1;
        data += sent;
        size -= (size_t)sent;
    }
    return 0;
}

/* One line without its end, or NULL when the board hung up. */
static char *read_line(int fd)
{
    char *line = malloc(MOST_ANSWER);
    size_t used = 0;
    while (line && used + 1 < MOST_ANSWER) {
        if (read(fd, line + used, 1) != 1)
            break;
        if (line[used] == '\n') {
            line[used] = '\0';
            return line;
        }
        used++;
    }
    free(line);
    return NULL;
}

/* The text behind "key": " of a flat piece of JSON, up to the next quote; enough for names of classes and versions. */
static int text_of(const char *json, const char *key, char *into, size_t room)
{
    char wanted[64];
    snprintf(wanted, sizeof wanted, "\"%s\": \"", key);
    const char *at = strstr(json, wanted);
    if (!at)
        return -1;
    at += strlen(wanted);
    size_t used = 0;
    while (at[used] && at[used] != '"' && used + 1 < room) {
        into[used] = at[used];
        used++;
    }
    into[used] = '\0';
    return 0;
}

int main(int count, char **words)
{
    if (count != 4) {
        fprintf(stderr, "usage: predict SOCKET FILE SHAPE\n");
        return 2;
    }
    FILE *file = fopen(words[2], "rb");
    char *values = malloc(MOST_BYTES);
    if (!file || !values) {
        perror(words[2]);
        return 2;
    }
    size_t size = fread(values, 1, MOST_BYTES, file);
    fclose(file);

    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (strlen(words[1]) >= sizeof address.sun_path) {
        fprintf(stderr, "%s: too long for a socket's address\n", words[1]);
        return 2;
    }
    strcpy(address.sun_path, words[1]);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        perror(words[1]);
        return 2;
    }
    char question[512];
    int length = snprintf(question, sizeof question,
                          "{\"call\": \"predict\", \"dtype\": \"uint8\", \"shape\": [%s], \"bytes\": %zu, \"top\": 1}\n",
                          words[3], size);
    char *answer = NULL;
    if (send_all(fd, question, (size_t)length) == 0 && send_all(fd, values, size) == 0)
        answer = read_line(fd);
    if (!answer) {
        fprintf(stderr, "%s: no answer\n", words[1]);
        return 1;
    }
    char name[256], version[256];
    int ok = strstr(answer, "\"ok\": true") && text_of(answer, "class", name, sizeof name) == 0
             && text_of(answer, "version", version, sizeof version) == 0;
    if (ok)
        printf("%s (%s)\n", name, version);
    else
        fprintf(stderr, "%s\n", answer);
    free(answer);
    free(values);
    close(fd);
    return ok ? 0 : 1;
}
