// vcsim serves govmomi's simulated vCenter, or a single ESXi host, for tests.
//
// It prints one JSON line once it listens: {"url": ..., "thumbprint": ..., "datastore": ...}, and ends with its input.
package main

import (
	"crypto/sha1"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"
	"strings"

	"github.com/vmware/govmomi/simulator"
)

func main() {
	esx := flag.Bool("esx", false, "a single ESXi host instead of a vCenter")
	machines := flag.Int("machines", 2, "virtual machines of each pool")
	listen := flag.String("listen", "127.0.0.1:0", "host:port")
	user := flag.String("user", "administrator@vsphere.local", "who may log in")
	password := flag.String("password", "", "with what")
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
	model.Service.TLS = new(tls.Config)
	server := model.Service.NewServer()
	defer server.Close()

	certificate := server.Certificate()
	digest := sha1.Sum(certificate.Raw)
	pairs := make([]string, len(digest))
	for i, b := range digest {
		pairs[i] = fmt.Sprintf("%02X", b)
	}
	line, err := json.Marshal(map[string]string{
		"url":        server.URL.Scheme + "://" + server.URL.Host,
		"thumbprint": strings.Join(pairs, ":"),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
	_, _ = io.Copy(io.Discard, os.Stdin)
}
