/* A libnvidia-ml.so.1 without a GPU: what the real binding asks for, answered from a script, on the real clock.

   The script is the file named by RAYSCALE_FAKE_NVML, read again whenever another file took its place. One statement a line, times in seconds of
   CLOCK_MONOTONIC ("inf" works), each `gpu` line begins a device to which the following lines belong:

     gpu UUID NAME ARCHITECTURE         power T WATTS        true power from T on
     reset T                            the energy counter starts again at 0
     stale T                            the energy counter stands still from T on
     limit T WATTS                      enforced power limit from T on
     process PID FROM TO                reasons MASK FROM TO   (also counts as thermal violation if MASK has 0x20)
     error NAME|FIELD CODE FROM TO      a call, or an entry of a field query, answers with an error
     mig 1
     ring SECONDS                       the driver keeps power samples of its own, one per 0.1 s, for so long
     policy T MHZ                       application clock from T on
     ecc T COUNT                        uncorrected memory errors so far, from T on
     shows WATTS FROM TO                what all power sensors show instead of the truth (0, -5, 60000, ...)
     old AGE FROM TO                    field queries answer with the values and time stamps of AGE seconds ago
     scope FIELD SCOPE                  the field exists in this scope only (1: module); without it in scope 0 (GPU)

   and before the first `gpu`: init CODE  NVML does not start, with this error.

   -DWITHOUT_FIELDS leaves nvmlDeviceGetFieldValues out: the binding then says FunctionNotFound. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define MAX_GPUS 4
#define MAX_LINES 64
#define TICK 0.1

typedef struct { double at, value; } change_t;
typedef struct { char name[64]; long code; double from, to; } span_t;
typedef struct {
    char uuid[96], name[96];
    unsigned architecture, mig;
    double reset, stale, ring;
    change_t power[MAX_LINES], limit[MAX_LINES], policy[MAX_LINES], ecc[MAX_LINES], scope[MAX_LINES];
    span_t error[MAX_LINES], process[MAX_LINES], reasons[MAX_LINES], shows[MAX_LINES], old[MAX_LINES];
    int powers, limits, policies, eccs, scopes, errors, processes, reasonses, showses, olds;
} gpu_t;
typedef struct { unsigned fieldId, scopeId; long long timestamp, latencyUsec; unsigned valueType, nvmlReturn;
    union { double dVal; unsigned uiVal; unsigned long long ullVal; } value; } field_t;
typedef struct { unsigned pid; unsigned long long memory; unsigned gpuInstance, computeInstance; } process_t;
typedef struct { unsigned long long timestamp; union { double dVal; unsigned uiVal; unsigned long long ullVal; } value; } sample_t;
typedef struct { unsigned pid; unsigned long long timestamp; unsigned sm, memory, encoder, decoder; } utilization_t;
typedef struct { unsigned version, sensor; int temperature; } temperature_t;
typedef struct { unsigned long long total, free, used; } memory_t;

static gpu_t gpus[MAX_GPUS];
static int gpu_count, is_open;
static unsigned init_error;
static ino_t script;

static int refresh(void);

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void read_change(const char *line, change_t *changes, int *count) {
    change_t *c = &changes[*count];
    if (*count < MAX_LINES) *count += sscanf(line, "%*s %lf %lf", &c->at, &c->value) == 2;
}

static void read_span(const char *line, span_t *spans, int *count) {
    span_t *s = &spans[*count];
    if (*count < MAX_LINES) *count += sscanf(line, "%*s %li %lf %lf", &s->code, &s->from, &s->to) == 3;
}

static double held(const change_t *changes, int count, double t, double before) {
    for (int i = 0; i < count && changes[i].at <= t; i++) before = changes[i].value;
    return before;
}

static int covers(const span_t *spans, int count, double t, long *code) {
    for (int i = 0; i < count; i++)
        if (spans[i].from <= t && t < spans[i].to) {
            *code = spans[i].code;
            return 1;
        }
    return 0;
}

static void read_line(char *line) {
    char word[32], a[96], b[96];
    unsigned number = 0;
    gpu_t *g = gpu_count ? &gpus[gpu_count - 1] : NULL;
    if (sscanf(line, "gpu %95s %95s %u", a, b, &number) == 3 && gpu_count < MAX_GPUS) {
        g = &gpus[gpu_count++];
        memset(g, 0, sizeof *g);
        strcpy(g->uuid, a);
        strcpy(g->name, b);
        g->architecture = number;
        g->reset = g->stale = INFINITY;
    } else if (sscanf(line, "init %u", &number) == 1) {
        init_error = number;
    } else if (!g || sscanf(line, "%31s", word) != 1) {
        return;
    } else if (!strcmp(word, "power")) {
        read_change(line, g->power, &g->powers);
    } else if (!strcmp(word, "limit")) {
        read_change(line, g->limit, &g->limits);
    } else if (!strcmp(word, "policy")) {
        read_change(line, g->policy, &g->policies);
    } else if (!strcmp(word, "ecc")) {
        read_change(line, g->ecc, &g->eccs);
    } else if (!strcmp(word, "scope")) {
        read_change(line, g->scope, &g->scopes);
    } else if (!strcmp(word, "reset")) {
        sscanf(line, "%*s %lf", &g->reset);
    } else if (!strcmp(word, "stale")) {
        sscanf(line, "%*s %lf", &g->stale);
    } else if (!strcmp(word, "ring")) {
        sscanf(line, "%*s %lf", &g->ring);
    } else if (!strcmp(word, "mig")) {
        sscanf(line, "%*s %u", &g->mig);
    } else if (!strcmp(word, "error") && g->errors < MAX_LINES) {
        span_t *e = &g->error[g->errors];
        g->errors += sscanf(line, "%*s %63s %ld %lf %lf", e->name, &e->code, &e->from, &e->to) == 4;
    } else if (!strcmp(word, "process")) {
        read_span(line, g->process, &g->processes);
    } else if (!strcmp(word, "reasons")) {
        read_span(line, g->reasons, &g->reasonses);
    } else if (!strcmp(word, "shows")) {
        read_span(line, g->shows, &g->showses);
    } else if (!strcmp(word, "old")) {
        read_span(line, g->old, &g->olds);
    }
}

static unsigned failing(const gpu_t *g, const char *name) {
    double t = now();
    if (!is_open) return 1; /* UNINITIALIZED */
    refresh();
    for (int i = 0; i < g->errors; i++)
        if ((!strcmp(g->error[i].name, name) || !strcmp(g->error[i].name, "*")) && g->error[i].from <= t && t < g->error[i].to)
            return (unsigned)g->error[i].code;
    return 0;
}

#define ASK(g, name) do { unsigned code = failing(g, name); if (code) return code; } while (0)

static double energy(const gpu_t *g, double t) { /* J since the first power line */
    double sum = 0;
    for (int i = 0; i < g->powers && g->power[i].at < t; i++) {
        double end = i + 1 < g->powers && g->power[i + 1].at < t ? g->power[i + 1].at : t;
        sum += g->power[i].value * (end - g->power[i].at);
    }
    return sum;
}

static double ticked(double t) { return floor(t / TICK) * TICK; }
static double mean_to(const gpu_t *g, double end, double window) { return (energy(g, end) - energy(g, end - window)) / window; }
static double mean(const gpu_t *g, double window) { return mean_to(g, ticked(now()), window); }
static unsigned shown_mw(const gpu_t *g, double t, double window) {
    long instead;
    double watts = covers(g->shows, g->showses, t, &instead) ? (double)instead : mean_to(g, ticked(t), window);
    return (unsigned)(int)(1000 * watts); /* a negative value shows as the huge one that its bits mean */
}
static double wall_ahead(void) { /* of the monotonic clock */
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec - now();
}
static unsigned long long counter(const gpu_t *g, double t) {
    double at = ticked(fmin(t, g->stale));
    return (unsigned long long)(1000 * (energy(g, at) - (at >= g->reset ? energy(g, g->reset) : -1)));
}
static unsigned long long heat_ns(const gpu_t *g) {
    double t = now(), sum = 0;
    for (int i = 0; i < g->reasonses; i++)
        if (g->reasons[i].code & 0x20) sum += fmax(0, fmin(t, g->reasons[i].to) - g->reasons[i].from);
    return (unsigned long long)(1e9 * sum);
}

static int refresh(void) { /* whether there is a script; handles stay valid, since devices keep their places */
    const char *path = getenv("RAYSCALE_FAKE_NVML");
    struct stat about;
    char line[256];
    FILE *file;
    if (!path || stat(path, &about)) return 0;
    if (about.st_ino == script) return 1;
    if (!(file = fopen(path, "r"))) return 0;
    script = about.st_ino;
    gpu_count = 0;
    init_error = 0;
    while (fgets(line, sizeof line, file)) read_line(line);
    fclose(file);
    return 1;
}

unsigned nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    is_open = refresh() && !init_error;
    return is_open ? 0 : init_error ? init_error : 9; /* DRIVER_NOT_LOADED */
}
unsigned nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
unsigned nvmlShutdown(void) { return is_open ? 0 : 1; }
const char *nvmlErrorString(unsigned code) { (void)code; return "error of the simulated library"; }
unsigned nvmlSystemGetDriverVersion(char *out, unsigned size) { snprintf(out, size, "575.51.simulated"); return 0; }
unsigned nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned)gpu_count; return 0; }
unsigned nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu_t **out) {
    if (index >= (unsigned)gpu_count) return 2;
    ASK(&gpus[index], "nvmlDeviceGetHandleByIndex");
    *out = &gpus[index];
    return 0;
}
unsigned nvmlDeviceGetHandleByUUID(const char *uuid, gpu_t **out) {
    for (int i = 0; i < gpu_count; i++)
        if (!strcmp(gpus[i].uuid, uuid)) { ASK(&gpus[i], "nvmlDeviceGetHandleByUUID"); *out = &gpus[i]; return 0; }
    return 6; /* NOT_FOUND */
}
unsigned nvmlDeviceGetUUID(gpu_t *g, char *out, unsigned size) { snprintf(out, size, "%s", g->uuid); return 0; }
unsigned nvmlDeviceGetName(gpu_t *g, char *out, unsigned size) { snprintf(out, size, "%s", g->name); return 0; }
unsigned nvmlDeviceGetMemoryInfo(gpu_t *g, memory_t *out) {
    ASK(g, "nvmlDeviceGetMemoryInfo");
    *out = (memory_t){80ULL << 30, 79ULL << 30, 1ULL << 30};
    return 0;
}
unsigned nvmlDeviceGetMigMode(gpu_t *g, unsigned *current, unsigned *pending) { *current = *pending = g->mig; return 0; }
unsigned nvmlDeviceGetArchitecture(gpu_t *g, unsigned *out) { *out = g->architecture; return 0; }
unsigned nvmlDeviceGetPersistenceMode(gpu_t *g, unsigned *out) { (void)g; *out = 1; return 0; }
unsigned nvmlDeviceGetPowerUsage(gpu_t *g, unsigned *mw) {
    ASK(g, "nvmlDeviceGetPowerUsage");
    *mw = shown_mw(g, now(), 1.0);
    return 0;
}
unsigned nvmlDeviceGetTotalEnergyConsumption(gpu_t *g, unsigned long long *mj) {
    ASK(g, "nvmlDeviceGetTotalEnergyConsumption");
    *mj = counter(g, now());
    return 0;
}
unsigned nvmlDeviceGetTemperatureV(gpu_t *g, temperature_t *out) {
    ASK(g, "nvmlDeviceGetTemperatureV");
    out->temperature = (int)(30 + 0.08 * mean(g, 1.0));
    return 0;
}
unsigned nvmlDeviceGetClockInfo(gpu_t *g, unsigned kind, unsigned *mhz) {
    ASK(g, "nvmlDeviceGetClockInfo");
    *mhz = kind == 2 ? 2619 : 1980;
    return 0;
}
unsigned nvmlDeviceGetApplicationsClock(gpu_t *g, unsigned kind, unsigned *mhz) {
    (void)kind;
    ASK(g, "nvmlDeviceGetApplicationsClock");
    *mhz = (unsigned)held(g->policy, g->policies, now(), 1980);
    return 0;
}
unsigned nvmlDeviceGetEnforcedPowerLimit(gpu_t *g, unsigned *mw) {
    ASK(g, "nvmlDeviceGetEnforcedPowerLimit");
    *mw = (unsigned)(1000 * held(g->limit, g->limits, now(), 700));
    return 0;
}
unsigned nvmlDeviceGetTotalEccErrors(gpu_t *g, unsigned kind, unsigned counter_kind, unsigned long long *out) {
    (void)kind, (void)counter_kind;
    ASK(g, "nvmlDeviceGetTotalEccErrors");
    *out = (unsigned long long)held(g->ecc, g->eccs, now(), 0);
    return 0;
}
unsigned nvmlDeviceGetCurrentClocksEventReasons(gpu_t *g, unsigned long long *out) {
    double t = now();
    ASK(g, "nvmlDeviceGetCurrentClocksEventReasons");
    *out = 0;
    for (int i = 0; i < g->reasonses; i++)
        if (g->reasons[i].from <= t && t < g->reasons[i].to) *out |= (unsigned long long)g->reasons[i].code;
    return 0;
}
unsigned nvmlDeviceGetComputeRunningProcesses_v3(gpu_t *g, unsigned *count, process_t *out) {
    double t = now();
    unsigned found = 0, room = out ? *count : 0;
    ASK(g, "nvmlDeviceGetComputeRunningProcesses");
    for (int i = 0; i < g->processes; i++) {
        if (t < g->process[i].from || t >= g->process[i].to) continue;
        if (found < room) out[found] = (process_t){(unsigned)g->process[i].code, 1 << 20, ~0u, ~0u};
        found++;
    }
    *count = found;
    return found > room ? 7 : 0; /* INSUFFICIENT_SIZE */
}

unsigned nvmlDeviceGetSamples(gpu_t *g, unsigned kind, unsigned long long since, unsigned *type, unsigned *count, sample_t *out) {
    double last = ticked(now()), ahead = wall_ahead();
    unsigned found = 0, room = *count;
    ASK(g, "nvmlDeviceGetSamples");
    if (kind != 0 || !(g->ring > 0)) return 3; /* NOT_SUPPORTED */
    for (int i = (int)(g->ring / TICK); i >= 0; i--) {
        unsigned long long stamp = (unsigned long long)(1e6 * (last - i * TICK + ahead));
        if (stamp <= since) continue;
        if (out && found < room) {
            out[found].timestamp = stamp;
            out[found].value.uiVal = (unsigned)(1000 * mean_to(g, last - i * TICK, TICK));
        }
        found++;
    }
    *type = 1; /* unsigned int */
    *count = out && found > room ? room : found;
    return found ? 0 : 6; /* NOT_FOUND */
}
unsigned nvmlDeviceGetProcessUtilization(gpu_t *g, utilization_t *out, unsigned *count, unsigned long long since) {
    double last = floor(now()), ahead = wall_ahead();
    unsigned found = 0, room = out ? *count : 0;
    ASK(g, "nvmlDeviceGetProcessUtilization");
    for (int i = 0; i < g->processes; i++)
        for (double t = last - 20; t <= last; t += 1) {
            unsigned long long stamp = (unsigned long long)(1e6 * (t + ahead));
            if (t < g->process[i].from || t >= g->process[i].to || stamp <= since) continue;
            if (found < room) out[found] = (utilization_t){(unsigned)g->process[i].code, stamp, 50, 10, 0, 0};
            found++;
        }
    *count = found;
    if (!found) return 6; /* NOT_FOUND */
    return found > room ? 7 : 0; /* INSUFFICIENT_SIZE */
}

#ifndef WITHOUT_FIELDS
static unsigned scope_of(const gpu_t *g, unsigned field) {
    for (int i = 0; i < g->scopes; i++)
        if (g->scope[i].at == field) return (unsigned)g->scope[i].value;
    return 0;
}
unsigned nvmlDeviceGetFieldValues(gpu_t *g, int count, field_t *fields) {
    long age = 0;
    double t = now();
    ASK(g, "nvmlDeviceGetFieldValues");
    t -= covers(g->old, g->olds, t, &age) ? (double)age : 0.0;
    for (int i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "%u", fields[i].fieldId);
        fields[i].nvmlReturn = failing(g, name);
        fields[i].timestamp = (long long)(1e6 * (t + wall_ahead()));
        fields[i].valueType = fields[i].fieldId >= 185 ? 1 : 3;
        if (fields[i].scopeId != scope_of(g, fields[i].fieldId)) {
            fields[i].nvmlReturn = 3; /* NOT_SUPPORTED */
            continue;
        }
        switch (fields[i].fieldId) {
        case 83: fields[i].value.ullVal = counter(g, t); break;
        case 74: fields[i].value.ullVal = 0; break;
        case 75: fields[i].value.ullVal = heat_ns(g); break;
        case 185: fields[i].value.uiVal = shown_mw(g, t, 1.0); break;
        case 186: fields[i].value.uiVal = shown_mw(g, t, 0.025); break;
        default: fields[i].nvmlReturn = 3; /* NOT_SUPPORTED */
        }
    }
    return 0;
}
#endif
