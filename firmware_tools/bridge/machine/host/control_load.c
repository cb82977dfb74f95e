/*
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Links libsimavr, which is under the GNU General Public License 3. This folder is shipped as source and compiled
 * on the user's machine; a binary made from it is under that licence as a whole.
 */
/*
 * A load that comes over the control channel, in lines: load SENSOR FROM (now, when it is over), then part PERIOD, then
 * knot AT POWER SLOPE ..., then load-end.
 */
#include <stdio.h>
#include <stdlib.h>

#include "machine.h"

/* A load on its way: its parts come in lines of their own. */
static struct {
    int sensor;
    struct load load;
} building;

void control_load(const char *text) {
    if (sscanf(text, "%d %la", &building.sensor, &building.load.from_s) != 2 || !control_sensor(building.sensor)) {
        control_answer("error load SENSOR FROM");
        return;
    }
    if (building.load.from_s < machine.now_s) building.load.from_s = machine.now_s;
    building.load.count = 0;
    building.load.parts = NULL;
}

void control_load_part(const char *text) {
    struct load *load = &building.load;
    struct load_part part = {0};
    sscanf(text, "%la", &part.period_s);
    load->parts = realloc(load->parts, (load->count + 1) * sizeof part);
    if (!load->parts) die("no memory for a load");
    load->parts[load->count++] = part;
}

void control_load_knot(const char *text) {
    if (!building.load.count) return;
    struct load_part *part = &building.load.parts[building.load.count - 1];
    struct knot knot = {0};
    char *end;
    knot.at_s = strtod(text, &end);
    knot.power_w = strtod(end, &end);
    knot.slope_w = strtod(end, &end);
    if ((part->count & (part->count - 1)) == 0) { /* room doubles at each power of two */
        part->knots = realloc(part->knots, (part->count ? 2 * part->count : 1) * sizeof knot);
        if (!part->knots) die("no memory for a load");
    }
    part->knots[part->count++] = knot;
}

void control_load_end(void) {
    struct ina219 *sensor = control_sensor(building.sensor);
    for (size_t i = 0; i < building.load.count; i++) {
        if (!building.load.parts[i].count) {
            control_answer("error a part without a knot");
            return;
        }
        load_part_finish(&building.load.parts[i]);
    }
    if (sensor->rail.count && building.load.from_s < sensor->rail.loads[sensor->rail.count - 1].from_s) {
        control_answer("error a load cannot begin before the one it follows");
        return;
    }
    ina219_advance(sensor, machine.now_s);
    rail_append(&sensor->rail, building.load);
    control_answer("ok %a", building.load.from_s);
}
