// A loader and a driver of Vulkan with the cards named in the arguments, each `<kind>:<name>` (4 is a processor), for
// native/layer/choose_card.cc. Prints the numbers of the cards that the layer shows, and what it says of them.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

using Function = void (*)();
using GetProcAddress = Function (*)(void*, const char*);
struct Interface {
  int type;
  void* next;
  uint32_t version;
  GetProcAddress getInstance, getDevice, getPhysicalDevice;
};
extern "C" int vkNegotiateLoaderLayerInterfaceVersion(Interface*);

static std::vector<std::string> cards;

static int create(void*, void*, void** instance) {
  *instance = &cards;
  return 0;
}

static int enumerate(void*, uint32_t* count, void** devices) {
  *count = static_cast<uint32_t>(cards.size());
  for (size_t i = 0; devices && i < cards.size(); i++) devices[i] = &cards[i];
  return 0;
}

/** Writes the kind, the name and an identity of 16 times the card's number. */
static void describe(std::string* card, char* properties) {
  const int kind = std::stoi(*card);
  char* id;
  memcpy(&id, properties + 8, sizeof id);
  memset(id + 16, static_cast<int>(card - cards.data()), 16);
  memcpy(properties + 32, &kind, sizeof kind);
  strcpy(properties + 36, card->c_str() + card->find(':') + 1);
}

static Function find(void*, const char* name) {
  if (!strcmp(name, "vkCreateInstance")) return reinterpret_cast<Function>(create);
  if (!strcmp(name, "vkEnumeratePhysicalDevices")) return reinterpret_cast<Function>(enumerate);
  return strcmp(name, "vkGetPhysicalDeviceProperties2") ? nullptr : reinterpret_cast<Function>(describe);
}

int main(int count, char** arguments) {
  cards.assign(arguments + 1, arguments + count);
  Interface layer = {1, nullptr, 2, nullptr, nullptr, nullptr};
  vkNegotiateLoaderLayerInterfaceVersion(&layer);
  struct Link {
    Link* next;
    GetProcAddress get;
  } link = {nullptr, find};
  struct Info {
    int type;
    void* next;
    int function;
    Link* link;
  } loader = {47, nullptr, 0, &link}, info = {1, &loader, 0, nullptr};
  void* instance = nullptr;
  const auto created = reinterpret_cast<int (*)(void*, void*, void**)>(layer.getInstance(nullptr, "vkCreateInstance"));
  if (created(&info, nullptr, &instance)) return 1;
  const auto list = reinterpret_cast<int (*)(void*, uint32_t*, void**)>(
      layer.getInstance(instance, "vkEnumeratePhysicalDevices"));
  uint32_t shown = 0;
  list(instance, &shown, nullptr);
  std::vector<void*> devices(shown);
  list(instance, &shown, devices.data());
  for (void* device : devices) printf("%d ", static_cast<int>(static_cast<std::string*>(device) - cards.data()));
  const char* chosen = getenv("TFJS_LORA_CHOSEN_CARD");
  printf("%s\n", chosen ? chosen : "");
}
