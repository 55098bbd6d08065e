#include "launcher/cluster_file.h"

#include <gtest/gtest.h>

#include "tests/testing/expect_status.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

constexpr char kWhole[] = R"(
hosts:
  - {name: node1, slots: 4}
  - {name: node2, slots: 2}
program: /opt/polystrate/bin/polystrate
log_dir: /var/log/polystrate
mpirun:
  path: /usr/bin/mpirun
  ssh: ssh -p 2222
  interface: eth1
  env: {NCCL_SOCKET_IFNAME: eth1, OMP_PROC_BIND: "false"}
  args: [--mca, btl_base_verbose, 10]
defaults: {model: /models/demo, dtype: float32, max_num_seqs: 16}
engines:
  - name: a
    tp: 2
    pp: 2
    stages: [0, 6, 12]
    listen: 10.0.0.1:50051
    prefix_cache: false
  - {name: b, hosts: [node2], tp: 2, max_num_seqs: 8, listen: "10.0.0.2:50051"}
coordinator: {host: node1, listen: "10.0.0.1:50050", engine: ["x:1", "y:2"]}
restart: {first: 500ms, most: 20, healthy: 1m, tries: 3}
)";

absl::Status ErrorOf(const std::string& text) { return ParseCluster("c.yaml", text).status(); }

TEST(ClusterFile, ReadsEverything) {
  const auto parsed = ParseCluster("c.yaml", kWhole);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->hosts.size(), 2u);
  EXPECT_EQ(parsed->hosts[1].name, "node2");
  EXPECT_EQ(parsed->hosts[1].slots, 2);
  EXPECT_EQ(parsed->program, "/opt/polystrate/bin/polystrate");
  EXPECT_EQ(parsed->log_dir, "/var/log/polystrate");
  EXPECT_EQ(parsed->mpirun.path, "/usr/bin/mpirun");
  EXPECT_EQ(parsed->mpirun.ssh, "ssh -p 2222");
  EXPECT_EQ(parsed->mpirun.interface, "eth1");
  EXPECT_EQ(parsed->mpirun.env[1], std::pair(std::string("OMP_PROC_BIND"), std::string("false")));
  EXPECT_EQ(parsed->mpirun.args, (Arguments{"--mca", "btl_base_verbose", "10"}));
  ASSERT_EQ(parsed->engines.size(), 2u);
  const ClusterEngine& a = parsed->engines[0];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.num_ranks(), 4);
  EXPECT_EQ(a.arguments, (Arguments{"--model=/models/demo", "--dtype=float32", "--max_num_seqs=16",
                                    "--tp=2", "--pp=2", "--stages=0,6,12",
                                    "--listen=10.0.0.1:50051", "--prefix_cache=false"}));
  EXPECT_FALSE(a.flags.engine.prefix_cache);
  EXPECT_EQ(a.flags.listen, "10.0.0.1:50051");
  const ClusterEngine& b = parsed->engines[1];
  EXPECT_EQ(b.hosts, std::vector<std::string>{"node2"});
  EXPECT_EQ(b.flags.engine.max_num_seqs, 8);
  EXPECT_EQ(b.arguments, (Arguments{"--model=/models/demo", "--dtype=float32", "--tp=2",
                                    "--max_num_seqs=8", "--listen=10.0.0.2:50051"}));
  EXPECT_EQ(parsed->coordinator->host, "node1");
  EXPECT_EQ(parsed->coordinator->arguments,
            (Arguments{"--listen=10.0.0.1:50050", "--engine=x:1", "--engine=y:2"}));
  EXPECT_EQ(parsed->restart.first, absl::Milliseconds(500));
  EXPECT_EQ(parsed->restart.most, absl::Seconds(20));
  EXPECT_EQ(parsed->restart.healthy, absl::Minutes(1));
  EXPECT_EQ(parsed->restart.tries, 3);
}

TEST(ClusterFile, LittleIsEnough) {
  const auto parsed = ParseCluster("c.yaml", "engines: [{name: a, model: DIR}]");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->hosts.size(), 1u);
  EXPECT_EQ(parsed->hosts[0].name, "localhost");
  EXPECT_FALSE(parsed->coordinator.has_value());
  EXPECT_EQ(parsed->mpirun.path, "mpirun");
  EXPECT_EQ(parsed->engines[0].num_ranks(), 1);
}

TEST(ClusterFile, SaysWhereAndWhatIsWrong) {
  const std::string engine = "engines: [{name: a, model: DIR}]\n";
  const struct {
    std::string text;
    const char* where;
    const char* what;
  } cases[] = {
      {"", "c.yaml:", "a cluster file is a list"},
      {"[1, 2]", "c.yaml:1:1", "a cluster file is a list"},
      {"engines: [\n  {name: a", "c.yaml:2", "no YAML"},
      {"\tengines: []", "c.yaml:1", "no YAML"},
      {"engines: []", "c.yaml:1:10", "\"engines\" takes a list"},
      {"hosts: [{name: x, slots: 1}]", "c.yaml:1:1", "\"engines\" takes a list"},
      {engine + "engine: []", "c.yaml:2:1", "did you mean \"engines\"?"},
      {engine + engine, "c.yaml:2:1", "\"engines\" is there twice"},
      {engine + "zzz: 1", "c.yaml:2:1", "it has hosts, program"},
      {"engines:\n  - {model: D}", "c.yaml:2:5", "has a name"},
      {"engines:\n  - {name: a b, model: D}", "c.yaml:2:5", "not a b"},
      {"engines:\n  - {name: a}", "c.yaml:2:5", "\"model\""},
      {"engines:\n  - name: a\n    modle: D", "c.yaml:3:5", "did you mean \"model\"?"},
      {"engines:\n  - name: a\n    model: D\n    tp: two", "c.yaml:4:9", "takes an integer"},
      {"engines:\n  - name: a\n    model: D\n    tp: 0", "c.yaml:2:5", "must be in [1, 4096]"},
      {"engines:\n  - name: a\n    model:", "c.yaml:3", "\"model\" takes a value"},
      {"engines:\n  - {name: a, model: D, watchdog_soft: -1}", "c.yaml:2:5", "watchdog_soft"},
      {"engines:\n- {name: a, model: D}\n- {name: a, model: D}", "c.yaml:3:3", "is there twice"},
      {"engines:\n- {name: a, model: D, hosts: [x]}", "c.yaml:2:31", "none of `hosts`: localhost"},
      {"engines:\n- {name: a, model: D, hosts: x}", "c.yaml:2:30", "takes a list"},
      {engine + "defaults: {name: b}", "c.yaml:2:12", "defaults has no \"name\""},
      {engine + "hosts: [{name: x}]", "c.yaml:2:9", "a name and slots"},
      {engine + "hosts: [{name: x, slots: 0}]", "c.yaml:2:26", "in [1, 1000000], not \"0\""},
      {engine + "hosts: [{name: \"x,y\", slots: 1}]", "c.yaml:2:9", "no host's name"},
      {engine + "hosts: [{name: x, slots: 1}, {name: x, slots: 1}]", "c.yaml:2:30", "twice"},
      {engine + "mpirun: {ssh_agent: x}", "c.yaml:2:10", "mpirun has no \"ssh_agent\""},
      {engine + "mpirun: {args: [[a]]}", "c.yaml:2:17", "list of texts"},
      {engine + "mpirun: {env: [a]}", "c.yaml:2:15", "NAME: value"},
      {engine + "restart: {first: soon}", "c.yaml:2:18", "not \"soon\""},
      {engine + "restart: {first: 40}", "c.yaml:2:10", "less than \"first\""},
      {engine + "coordinator: {host: x}", "c.yaml:2:21", "none of `hosts`"},
      {engine + "coordinator: {drain_timout: 1}", "c.yaml:2:15", "did you mean \"drain_timeout\"?"},
      {engine + "coordinator: {drain_timeout: x}", "c.yaml:2:30", "takes an integer"},
      {engine + "coordinator: yes", "c.yaml:2:14", "key: value"},
      {"a: &a [*a]", "c.yaml:1", "nested too deeply"},
  };
  for (const auto& wrong : cases) {
    SCOPED_TRACE(wrong.text);
    EXPECT_TRUE(Fails(ErrorOf(wrong.text), absl::StatusCode::kInvalidArgument, wrong.what));
    EXPECT_TRUE(Fails(ErrorOf(wrong.text), absl::StatusCode::kInvalidArgument, wrong.where));
  }
}

// Nine aliases of nine aliases of ...: a few lines that would fill the memory.
TEST(ClusterFile, IsBounded) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 20; ++i) {
    const std::string last = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + last;
    for (int j = 0; j < 8; ++j) bomb += ", " + last;
    bomb += "]\n";
  }
  EXPECT_TRUE(Fails(ErrorOf(bomb), absl::StatusCode::kInvalidArgument, "too large"));
}

TEST(ClusterFile, IsAFile) {
  const TempDir dir;
  EXPECT_TRUE(Fails(ReadClusterFile(dir.File("none.yaml")).status(), absl::StatusCode::kNotFound,
                    "none.yaml"));
  EXPECT_TRUE(Fails(ReadClusterFile(dir.path()).status(), absl::StatusCode::kNotFound, dir.path()));
  WriteFile(dir.File("c.yaml"), kWhole);
  EXPECT_TRUE(ReadClusterFile(dir.File("c.yaml")).ok());
}

}  // namespace
}  // namespace polystrate
