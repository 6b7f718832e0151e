/* SIMULATED libnvidia-ml.so.1: answers from a profile, for lab hosts. No GPU is involved.
 *
 * Enough of NVML for nvidia-ml-py's calls about what a GPU is and who holds its memory; what is
 * missing is missing from the symbol table, which nvidia-ml-py reports as "Function Not Found".
 * Reads /etc/simulated-nvidia/nvml ("key value" lines) at nvmlInit, and processes that a test adds
 * in /run/simulated-nvidia/processes ("GPU pid MiB name") at each call; other places are given by
 * $SIMULATED_NVIDIA and $SIMULATED_NVIDIA_PROCESSES, as to nvidia_smi.py.
 *
 *     gcc -std=c99 -shared -fPIC -O1 -o libnvidia-ml.so.1 nvml.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_GPUS 16
#define MAX_PROCESSES 64
#define MIB (1024ULL * 1024ULL)

/* nvml.h: nvmlReturn_t */
enum {
  SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
  INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, MISMATCH = 18
};

typedef struct {
  char uuid[96], name[96], pci[32], capability[16], mode[32], mig[32], ecc[32];
  unsigned device, lost;
  unsigned long long memory, used, power;
} gpu_t;
typedef struct { unsigned gpu, pid; unsigned long long memory; } process_t;
typedef gpu_t *device_t;

typedef struct {
  char busIdLegacy[16];
  unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
  char busId[32];
} pci_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_info_t;
typedef struct { unsigned gpu, memory; } utilization_t;

static gpu_t gpus[MAX_GPUS];
static process_t processes[MAX_PROCESSES];
static unsigned count, fixed, running, ready;
static int refuses;
static char driver[64], cuda[16];

static void copy(char *into, size_t size, const char *from) { snprintf(into, size, "%s", from); }
static unsigned long long number(const char *text) {
  unsigned long long n = 0;
  for (; *text >= '0' && *text <= '9'; text++) n = 10 * n + (unsigned)(*text - '0');
  return n;
}
static unsigned hexadecimal(const char *text) {
  unsigned n = 0;
  for (;; text++) {
    if (*text >= '0' && *text <= '9') n = 16 * n + (unsigned)(*text - '0');
    else if (*text >= 'a' && *text <= 'f') n = 16 * n + (unsigned)(*text - 'a' + 10);
    else return n;
  }
}
static const char *next(const char *text) {
  const char *space = strchr(text, ' ');
  return space ? space + 1 : "";
}

static void set(gpu_t *gpu, const char *key, const char *value) {
  if (!strcmp(key, "uuid")) copy(gpu->uuid, sizeof gpu->uuid, value);
  else if (!strcmp(key, "name")) copy(gpu->name, sizeof gpu->name, value);
  else if (!strcmp(key, "pci")) copy(gpu->pci, sizeof gpu->pci, value);
  else if (!strcmp(key, "compute_capability")) copy(gpu->capability, sizeof gpu->capability, value);
  else if (!strcmp(key, "compute_mode")) copy(gpu->mode, sizeof gpu->mode, value);
  else if (!strcmp(key, "mig")) copy(gpu->mig, sizeof gpu->mig, value);
  else if (!strcmp(key, "ecc")) copy(gpu->ecc, sizeof gpu->ecc, value);
  else if (!strcmp(key, "device")) gpu->device = hexadecimal(value);
  else if (!strcmp(key, "memory_mib")) gpu->memory = number(value) * MIB;
  else if (!strcmp(key, "used_mib")) gpu->used = number(value) * MIB;
  else if (!strcmp(key, "power_limit")) gpu->power = number(value) * 1000;
  else if (!strcmp(key, "lost")) gpu->lost = !strcmp(value, "True");
}

static void add(const char *text) { /* "GPU pid MiB name" */
  if (running == MAX_PROCESSES || !*text) return;
  processes[running].gpu = (unsigned)number(text);
  processes[running].pid = (unsigned)number(next(text));
  processes[running].memory = number(next(next(text))) * MIB;
  running++;
}

static void look(void) {
  char line[256];
  const char *path;
  FILE *file;
  running = fixed;
  path = getenv("SIMULATED_NVIDIA_PROCESSES");
  if (!(file = fopen(path ? path : "/run/simulated-nvidia/processes", "r"))) return;
  while (fgets(line, sizeof line, file)) add(line);
  fclose(file);
}

static int initialize(void) {
  char line[256], *value, *key;
  const char *home = getenv("SIMULATED_NVIDIA");
  FILE *file;
  snprintf(line, sizeof line, "%s/nvml", home ? home : "/etc/simulated-nvidia");
  if (!(file = fopen(line, "r"))) return DRIVER_NOT_LOADED;
  count = running = 0;
  memset(gpus, 0, sizeof gpus);
  while (fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    if (!(value = strchr(line, ' '))) continue;
    *value++ = 0;
    if (!strcmp(line, "driver")) copy(driver, sizeof driver, value);
    else if (!strcmp(line, "cuda")) copy(cuda, sizeof cuda, value);
    else if (!strcmp(line, "refuses")) refuses = (int)number(value);
    else if (!strcmp(line, "hangs") && number(value)) for (;;) getchar();
    else if (!strcmp(line, "process")) add(value);
    else if (!strncmp(line, "gpu.", 4)) {
      unsigned index = (unsigned)number(line + 4);
      if (index >= MAX_GPUS || !(key = strchr(line + 4, '.'))) continue;
      if (index >= count) count = index + 1;
      set(&gpus[index], key + 1, value);
    }
  }
  fclose(file);
  fixed = running;
  ready = refuses == 0;
  return refuses;
}

static int usable(device_t device) {
  if (!ready) return UNINITIALIZED;
  if (device < gpus || device >= gpus + count) return INVALID_ARGUMENT;
  return device->lost ? GPU_IS_LOST : SUCCESS;
}
#define CHECK(device) do { int e = usable(device); if (e) return e; } while (0)

static unsigned long long in_use(device_t device) {
  unsigned long long sum = device->used;
  look();
  for (unsigned i = 0; i < running; i++)
    if (&gpus[processes[i].gpu] == device) sum += processes[i].memory;
  return sum;
}

int nvmlInit_v2(void) { return initialize(); }
int nvmlInit(void) { return initialize(); }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return initialize(); }
int nvmlShutdown(void) { if (!ready) return UNINITIALIZED; ready = 0; return SUCCESS; }

const char *nvmlErrorString(int error) {
  switch (error) {
    case SUCCESS: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    case MISMATCH: return "Driver/library version mismatch";
    default: return "Unknown Error";
  }
}

int nvmlSystemGetDriverVersion(char *into, unsigned size) {
  if (!ready) return UNINITIALIZED;
  copy(into, size, driver);
  return SUCCESS;
}
int nvmlSystemGetNVMLVersion(char *into, unsigned size) {
  return nvmlSystemGetDriverVersion(into, size);
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) { /* 13.0 is 13000 */
  const char *minor = strchr(cuda, '.');
  *version = (int)(number(cuda) * 1000 + (minor ? number(minor + 1) * 10 : 0));
  return ready ? SUCCESS : UNINITIALIZED;
}
int nvmlSystemGetCudaDriverVersion(int *version) {
  return nvmlSystemGetCudaDriverVersion_v2(version);
}

int nvmlDeviceGetCount_v2(unsigned *n) { *n = count; return ready ? SUCCESS : UNINITIALIZED; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *device) {
  if (!ready) return UNINITIALIZED;
  if (index >= count) return INVALID_ARGUMENT;
  *device = &gpus[index];
  return gpus[index].lost ? GPU_IS_LOST : SUCCESS;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device_t *device) {
  for (unsigned i = 0; i < count; i++)
    if (!strcmp(gpus[i].uuid, uuid)) return nvmlDeviceGetHandleByIndex_v2(i, device);
  return ready ? NOT_FOUND : UNINITIALIZED;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, device_t *device) {
  for (unsigned i = 0; i < count; i++)
    if (!strcmp(gpus[i].pci, pci)) return nvmlDeviceGetHandleByIndex_v2(i, device);
  return ready ? NOT_FOUND : UNINITIALIZED;
}

int nvmlDeviceGetIndex(device_t device, unsigned *index) {
  CHECK(device);
  *index = (unsigned)(device - gpus);
  return SUCCESS;
}
int nvmlDeviceGetMinorNumber(device_t device, unsigned *n) { return nvmlDeviceGetIndex(device, n); }
int nvmlDeviceGetName(device_t device, char *into, unsigned size) {
  CHECK(device);
  copy(into, size, device->name);
  return SUCCESS;
}
int nvmlDeviceGetUUID(device_t device, char *into, unsigned size) {
  CHECK(device);
  copy(into, size, device->uuid);
  return SUCCESS;
}
int nvmlDeviceGetSerial(device_t device, char *into, unsigned size) {
  (void)into, (void)size;
  CHECK(device);
  return NOT_SUPPORTED;
}
int nvmlDeviceGetPciInfo_v3(device_t device, pci_t *pci) { /* "00000000:c1:00.0" */
  CHECK(device);
  memset(pci, 0, sizeof *pci);
  copy(pci->busId, sizeof pci->busId, device->pci);
  copy(pci->busIdLegacy, sizeof pci->busIdLegacy, device->pci + 4);
  pci->domain = hexadecimal(device->pci);
  pci->bus = hexadecimal(device->pci + 9);
  pci->device = hexadecimal(device->pci + 12);
  pci->pciDeviceId = device->device << 16 | 0x10de;
  return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(device_t device, memory_t *memory) {
  CHECK(device);
  memory->total = device->memory;
  memory->used = in_use(device);
  memory->free = memory->total - memory->used;
  return SUCCESS;
}
int nvmlDeviceGetMemoryInfo_v2(device_t device, memory_v2_t *memory) {
  CHECK(device);
  memory->total = device->memory;
  memory->reserved = 0;
  memory->used = in_use(device);
  memory->free = memory->total - memory->used;
  return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(device_t device, unsigned *n, process_info_t *infos) {
  unsigned found = 0, room = *n;
  CHECK(device);
  look();
  for (unsigned i = 0; i < running; i++) {
    if (&gpus[processes[i].gpu] != device) continue;
    if (infos && found < room) {
      infos[found].pid = processes[i].pid;
      infos[found].used = processes[i].memory;
      infos[found].gi = infos[found].ci = 0xffffffffU;
    }
    found++;
  }
  *n = found;
  return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t device, unsigned *n, process_info_t *infos) {
  (void)infos;
  CHECK(device);
  *n = 0;
  return SUCCESS;
}
int nvmlDeviceGetMigMode(device_t device, unsigned *current, unsigned *pending) {
  CHECK(device);
  if (!strcmp(device->mig, "[N/A]")) return NOT_SUPPORTED;
  *current = *pending = !strcmp(device->mig, "Enabled");
  return SUCCESS;
}
int nvmlDeviceGetEccMode(device_t device, unsigned *current, unsigned *pending) {
  CHECK(device);
  if (!strcmp(device->ecc, "[N/A]")) return NOT_SUPPORTED;
  *current = *pending = !strcmp(device->ecc, "Enabled");
  return SUCCESS;
}
int nvmlDeviceGetComputeMode(device_t device, unsigned *mode) {
  CHECK(device);
  *mode = !strcmp(device->mode, "Exclusive_Process") ? 3 : !strcmp(device->mode, "Prohibited") * 2;
  return SUCCESS;
}
int nvmlDeviceGetPersistenceMode(device_t device, unsigned *mode) {
  CHECK(device);
  *mode = 1;
  return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(device_t device, int *major, int *minor) {
  const char *dot;
  CHECK(device);
  dot = strchr(device->capability, '.');
  *major = (int)number(device->capability);
  *minor = dot ? (int)number(dot + 1) : 0;
  return SUCCESS;
}
int nvmlDeviceGetPowerManagementLimit(device_t device, unsigned *milliwatts) {
  CHECK(device);
  *milliwatts = (unsigned)device->power;
  return SUCCESS;
}
int nvmlDeviceGetEnforcedPowerLimit(device_t device, unsigned *milliwatts) {
  return nvmlDeviceGetPowerManagementLimit(device, milliwatts);
}
int nvmlDeviceGetPowerUsage(device_t device, unsigned *milliwatts) {
  CHECK(device);
  *milliwatts = 18020;
  return SUCCESS;
}
int nvmlDeviceGetTemperature(device_t device, unsigned sensor, unsigned *celsius) {
  (void)sensor;
  CHECK(device);
  *celsius = 34;
  return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(device_t device, utilization_t *rates) {
  CHECK(device);
  rates->gpu = rates->memory = 0;
  return SUCCESS;
}
