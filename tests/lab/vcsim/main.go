// vcsim serves govmomi's simulated vCenter, or a single ESXi host, for tests.
//
// It prints one JSON line once it listens: {"url": ..., "thumbprint": ...}, obeys the JSON lines of its input (phony.go)
// and ends with it.
package main

import (
	"crypto/sha1"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

func main() {
	esx := flag.Bool("esx", false, "a single ESXi host instead of a vCenter")
	machines := flag.Int("machines", 2, "virtual machines of each pool")
	listen := flag.String("listen", "127.0.0.1:0", "host:port")
	user := flag.String("user", "administrator@vsphere.local", "who may log in")
	password := flag.String("password", "", "with what")
	plain := flag.Bool("plain", false, "without TLS, for a proxy in front of it")
	advertise := flag.String("advertise", "", "where leases point to, when that is a proxy: https://host:port")
	flag.Parse()

	model := simulator.VPX()
	if *esx {
		model = simulator.ESX()
	}
	model.Machine = *machines
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	defer model.Remove()

	model.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword(*user, *password)}
	if !*plain {
		model.Service.TLS = new(tls.Config)
	}
	server := model.Service.NewServer()
	defer server.Close()
	server.Config.Handler = keepUploads(server.Config.Handler, model.Service.Context)

	if *advertise != "" {
		model.Service.Context.Map.OptionManager().UpdateOptions(&types.UpdateOptions{
			ChangedValue: []types.BaseOptionValue{&types.OptionValue{Key: "vcsim.server.url", Value: *advertise}},
		})
	}
	phony := newPhony(model.Service.Context)
	line, err := json.Marshal(map[string]string{
		"url":        server.URL.Scheme + "://" + server.URL.Host,
		"thumbprint": thumbprint(server, *plain),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
	phony.serve(os.Stdin, os.Stdout)
}

// thumbprint: SHA-1 in pairs with colons; empty without TLS.
func thumbprint(server *simulator.Server, plain bool) string {
	if plain {
		return ""
	}
	digest := sha1.Sum(server.Certificate().Raw)
	pairs := make([]string, len(digest))
	for i, b := range digest {
		pairs[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(pairs, ":")
}
