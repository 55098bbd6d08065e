#include "launcher/cluster_plan.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

LaunchSite Site() {
  LaunchSite site;
  site.program = "/bin/polystrate";
  site.cores = 2;
  site.is_local = [](const std::string& host) { return host == "localhost" || host == "here"; };
  return site;
}

absl::StatusOr<std::vector<ClusterTask>> Plan(const std::string& text) {
  const auto cluster = ParseCluster("c.yaml", text);
  EXPECT_TRUE(cluster.ok()) << cluster.status();
  return PlanCluster(*cluster, Site());
}

// The plan's lines, or the error.
std::vector<std::string> Lines(const std::string& text) {
  const auto tasks = Plan(text);
  if (!tasks.ok()) return {std::string(tasks.status().message())};
  std::vector<std::string> lines;
  for (const ClusterTask& task : *tasks) lines.push_back(ShellLine(task.command));
  return lines;
}

// What mpirun's --host says of each engine.
std::vector<std::string> HostsOf(const std::string& text) {
  const auto tasks = Plan(text);
  EXPECT_TRUE(tasks.ok()) << tasks.status();
  std::vector<std::string> hosts;
  for (const ClusterTask& task : *tasks) {
    std::string joined;
    for (const HostRanks& host : task.ranks)
      absl::StrAppend(&joined, host.host, ":", host.ranks, " ");
    hosts.push_back(joined);
  }
  return hosts;
}

TEST(ClusterPlan, OneProcessHereNeedsNoMpirun) {
  EXPECT_EQ(Lines("engines: [{name: a, model: DIR}]"),
            std::vector<std::string>{"/bin/polystrate serve --model=DIR"});
  EXPECT_EQ(Lines("mpirun: {env: {A: b c}}\nengines: [{name: a, model: DIR}]"),
            std::vector<std::string>{"env 'A=b c' /bin/polystrate serve --model=DIR"});
}

TEST(ClusterPlan, RanksAreStartedByMpirun) {
  EXPECT_EQ(Lines("engines: [{name: a, model: DIR, tp: 2}]"),
            std::vector<std::string>{"mpirun -np 2 --host localhost:2 --map-by slot --bind-to none "
                                     "--tag-output /bin/polystrate serve --model=DIR --tp=2"});
  EXPECT_EQ(Lines(R"(
hosts: [{name: here, slots: 4}, {name: there, slots: 4}]
program: /opt/polystrate
mpirun: {path: /usr/bin/mpirun, ssh: my ssh, interface: eth1, env: {A: "1"}, args: [--report-bindings]}
engines:
- {name: a, model: DIR, tp: 4, listen: "10.0.0.1:1"}
- {name: b, model: DIR, listen: "10.0.0.2:1", hosts: [there]}
)"),
            (std::vector<std::string>{
                "/usr/bin/mpirun -np 4 --host here:4 --map-by slot --bind-to none --tag-output "
                "--oversubscribe --mca plm_rsh_agent 'my ssh' --mca oob_tcp_if_include eth1 --mca "
                "btl_tcp_if_include eth1 -x A=1 --report-bindings /opt/polystrate serve "
                "--model=DIR --tp=4 --listen=10.0.0.1:1",
                "/usr/bin/mpirun -np 1 --host there:1 --map-by slot --bind-to none --tag-output "
                "--mca plm_rsh_agent 'my ssh' --mca oob_tcp_if_include eth1 --mca "
                "btl_tcp_if_include eth1 -x A=1 --report-bindings /opt/polystrate serve "
                "--model=DIR --listen=10.0.0.2:1"}));
}

TEST(ClusterPlan, AStageStaysOnOneHost) {
  const std::string hosts =
      "hosts: [{name: n1, slots: 3}, {name: n2, slots: 2}, {name: n3, slots: 8}]\nengines:\n";
  const auto engine = [](const char* name, const std::string& more) {
    return absl::StrCat("- {name: ", name, ", model: D, listen: \"h:", name, "\", ", more, "}\n");
  };
  EXPECT_EQ(HostsOf(hosts + engine("1", "tp: 2, pp: 2")), std::vector<std::string>{"n1:2 n2:2 "});
  EXPECT_EQ(HostsOf(hosts + engine("1", "tp: 4")), std::vector<std::string>{"n3:4 "});
  EXPECT_EQ(HostsOf(hosts + engine("1", "tp: 2, pp: 2, hosts: [n3, n1]")),
            std::vector<std::string>{"n3:2 n1:2 "});
  EXPECT_EQ(HostsOf(hosts + engine("1", "pp: 3, hosts: [n3, n1]")),
            std::vector<std::string>{"n3:2 n1:1 "});
  EXPECT_EQ(HostsOf(hosts + engine("1", "tp: 2, hosts: [n3, n1]")),
            std::vector<std::string>{"n3:2 "});
  // Equal shares do not fit the first.
  EXPECT_EQ(HostsOf(hosts + engine("1", "tp: 2, pp: 4, hosts: [n1, n3]")),
            std::vector<std::string>{"n1:2 n3:6 "});
  // What the first leaves is the second's.
  EXPECT_EQ(HostsOf(hosts + engine("1", "tp: 2") + engine("2", "pp: 4")),
            (std::vector<std::string>{"n1:2 ", "n1:1 n2:2 n3:1 "}));
  // It cannot be: no host has six slots left, or pairs enough.
  EXPECT_EQ(HostsOf(hosts + engine("1", "tp: 5, hosts: [n1, n2]")),
            std::vector<std::string>{"n1:3 n2:2 "});
}

TEST(ClusterPlan, RefusesWhatDoesNotFit) {
  EXPECT_TRUE(Fails(Plan("engines:\n- {name: a, model: D, tp: 2, pp: 2}").status(),
                    absl::StatusCode::kInvalidArgument,
                    "c.yaml:2:3: engine a does not fit: tp 2 * pp 2 = 4 ranks need a slot each; "
                    "free are 2 of the 2 of localhost"));
  EXPECT_TRUE(Fails(Plan("hosts: [{name: x, slots: 3}, {name: y, slots: 1}]\nengines:\n"
                         "- {name: a, model: D, tp: 2, listen: \"h:1\"}\n"
                         "- {name: b, model: D, tp: 3, listen: \"h:2\"}")
                        .status(),
                    absl::StatusCode::kInvalidArgument,
                    "free are 1 of the 3 of x, 1 of the 1 of y"));
}

TEST(ClusterPlan, TheCoordinatorKnowsTheEngines) {
  const std::string hosts = "hosts: [{name: here, slots: 2}, {name: there, slots: 4}]\n";
  EXPECT_EQ(Lines(hosts + R"(
engines:
- {name: a, model: D, listen: "0.0.0.0:1"}
- {name: b, model: D, listen: "0.0.0.0:1", hosts: [there]}
- {name: c, model: D, listen: "[::]:2"}
- {name: d, model: D, listen: "[fe80::1]:3", hosts: [there]}
coordinator: {listen: "0.0.0.0:50050"}
)")
                .back(),
            "/bin/polystrate coordinator --engine=127.0.0.1:1 --engine=there:1 "
            "--engine=127.0.0.1:2 '--engine=[fe80::1]:3' --listen=0.0.0.0:50050");
  EXPECT_TRUE(
      absl::StartsWith(Lines(hosts + "engines: [{name: a, model: D, listen: \"10.0.0.1:1\"}]\n"
                                     "coordinator: {host: there}")
                           .back(),
                       "mpirun -np 1 --host there:1 "));
}

TEST(ClusterPlan, RefusesAddressesThatCannotWork) {
  const std::string hosts = "hosts: [{name: here, slots: 4}, {name: there, slots: 4}]\nengines:\n";
  const struct {
    const char* text;
    const char* what;
  } cases[] = {
      {"- {name: a, model: D}\n- {name: b, model: D}", "but engine a takes port 50051 of here too"},
      {"- {name: a, model: D, metrics_listen: \"0.0.0.0:50051\"}", "takes port 50051"},
      {"- {name: a, model: D}\ncoordinator: {listen: \"127.0.0.1:50051\"}",
       "coordinator listens on 127.0.0.1:50051, but engine a"},
      {"- {name: a, model: D, listen: nowhere}", "no address to listen on"},
      {"- {name: a, model: D, listen: \"h:0\"}\ncoordinator: {}", "port 0"},
      {"- {name: a, model: D, hosts: [there]}\ncoordinator: {}", "cannot reach"},
  };
  for (const auto& wrong : cases) {
    EXPECT_TRUE(
        Fails(Plan(hosts + wrong.text).status(), absl::StatusCode::kInvalidArgument, wrong.what));
  }
  EXPECT_TRUE(Plan(hosts + "- {name: a, model: D}\n- {name: b, model: D, hosts: [there]}").ok());
}

TEST(ClusterPlan, WhatTheDocumentationShows) {
  LaunchSite site = Site();
  for (const char* name : {"two_engines", "two_hosts"}) {
    const auto cluster = ReadClusterFile(SourceFile(absl::StrCat("docs/cluster/", name, ".yaml")));
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    site.is_local = [](const std::string& host) { return host == "localhost" || host == "node1"; };
    const auto tasks = PlanCluster(*cluster, site);
    ASSERT_TRUE(tasks.ok()) << tasks.status();
    ASSERT_EQ(tasks->size(), 3u);
    EXPECT_TRUE(tasks->back().coordinator);
    EXPECT_FALSE(tasks->back().by_mpirun);
    if (cluster->hosts.size() == 1) continue;
    // As two_hosts.sh has them.
    EXPECT_EQ((*tasks)[0].ranks[1].host, "node2");
    EXPECT_TRUE(absl::StrContains(ShellLine((*tasks)[0].command), "--host node1:2,node2:2 "));
    EXPECT_TRUE(absl::StrContains(ShellLine((*tasks)[1].command), "--host node2:2,node1:2 "));
  }
}

TEST(ClusterPlan, LinesCanBePasted) {
  const Arguments words = {"printf",    "%s|",  "",      "plain-1.2/3:4,5=6",
                           "two words", "it's", "$HOME", "`id`",
                           "a\nb",      "*",    "\\",    "\"q\"",
                           "~",         "#"};
  std::string expected;
  for (size_t i = 2; i < words.size(); ++i) absl::StrAppend(&expected, words[i], "|");
  std::FILE* shell = popen(ShellLine(words).c_str(), "r");
  std::array<char, 256> printed = {};
  const size_t size = fread(printed.data(), 1, printed.size(), shell);
  EXPECT_EQ(pclose(shell), 0);
  EXPECT_EQ(std::string(printed.data(), size), expected);
}

}  // namespace
}  // namespace polystrate
