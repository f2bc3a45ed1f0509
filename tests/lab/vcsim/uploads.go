package main

// vcsim only hashes what is uploaded through an import lease. This keeps it, as a real host does: the stream becomes
// the disk's files in the datastore. A stream that is cut off or malformed is answered with an error, and its part
// stays unreadable.

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	_ "unsafe" // for go:linkname

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

//go:linkname leases github.com/vmware/govmomi/simulator.nfcLease
var leases sync.Map

// keepUploads serves everything else by next.
func keepUploads(next http.Handler, ctx *simulator.Context) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upload := r.Method == http.MethodPost || r.Method == http.MethodPut
		if !upload || !strings.HasPrefix(r.URL.Path, "/nfc/") {
			next.ServeHTTP(w, r)
			return
		}
		file, err := diskFile(ctx, r.URL.Path)
		if err == nil {
			err = keep(r.Body, file)
		}
		if err != nil {
			log.Printf("upload to %s: %v", r.URL.Path, err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

// diskFile is the path of the descriptor in the datastore's directory for /nfc/<lease>/<disk>.vmdk.
func diskFile(ctx *simulator.Context, url string) (string, error) {
	ref := types.ManagedObjectReference{Type: "HttpNfcLease", Value: path.Base(path.Dir(url))}
	found, ok := leases.Load(ref)
	if !ok {
		return "", fmt.Errorf("no such lease")
	}
	vm, ok := ctx.Map.Get(found.(*simulator.HttpNfcLease).Info.Entity).(*simulator.VirtualMachine)
	if !ok {
		return "", fmt.Errorf("the lease's machine is gone")
	}
	for _, device := range object.VirtualDeviceList(vm.Config.Hardware.Device).SelectByType((*types.VirtualDisk)(nil)) {
		backing := device.GetVirtualDevice().Backing.(types.BaseVirtualDeviceFileBackingInfo)
		info := backing.GetVirtualDeviceFileBackingInfo()
		var at object.DatastorePath
		at.FromString(info.FileName)
		if path.Base(at.Path) != path.Base(url) {
			continue
		}
		datastore := ctx.Map.Get(*info.Datastore).(*simulator.Datastore)
		var summary mo.Datastore = datastore.Datastore
		return filepath.Join(summary.Info.GetDatastoreInfo().Url, at.Path), nil
	}
	return "", fmt.Errorf("the machine has no such disk")
}

// keep writes the stream as it is, for export leases, and unpacked, for ranges.
func keep(body io.Reader, file string) error {
	flat := strings.TrimSuffix(file, ".vmdk") + "-flat.vmdk"
	stream, err := os.Create(file + ".part")
	if err != nil {
		return err
	}
	defer stream.Close()
	extent, err := os.Create(flat)
	if err != nil {
		return err
	}
	defer extent.Close()
	if err = unpack(io.TeeReader(body, stream), extent); err != nil {
		return err
	}
	return os.Rename(stream.Name(), file)
}

type header struct {
	Magic                             [4]byte
	Version, Flags                    uint32
	Capacity, Grain, DescAt, DescSize uint64
	Entries                           uint32
	Redundant, Directory, Overhead    uint64
	Unclean                           uint8
	Newlines                          [4]byte
	Algorithm                         uint16
}

const sector = 512

// unpack follows VMware Virtual Disk Format 1.1 strictly: whole grains in order, tables, directory, footer, end.
func unpack(in io.Reader, out *os.File) error {
	first := make([]byte, sector)
	if _, err := io.ReadFull(in, first); err != nil {
		return err
	}
	var h header
	_ = binary.Read(bytes.NewReader(first), binary.LittleEndian, &h)
	if string(h.Magic[:]) != "KDMV" || h.Version != 3 || h.Flags != 0x30001 || h.Grain != 128 || h.Algorithm != 1 {
		return fmt.Errorf("not a stream-optimised VMDK: %+v", h)
	}
	if _, err := io.CopyN(io.Discard, in, int64(h.Overhead-1)*sector); err != nil {
		return err
	}
	if err := out.Truncate(int64(h.Capacity) * sector); err != nil {
		return err
	}
	next, footer := uint64(0), false
	for {
		if _, err := io.ReadFull(in, first); err != nil {
			return fmt.Errorf("cut off: %w", err)
		}
		value, size := binary.LittleEndian.Uint64(first), binary.LittleEndian.Uint32(first[8:])
		if size == 0 {
			kind := binary.LittleEndian.Uint32(first[12:])
			if kind == 0 {
				if !footer {
					return fmt.Errorf("the end comes without a footer")
				}
				return nil
			}
			footer = kind == 3
			if _, err := io.CopyN(io.Discard, in, int64(value)*sector); err != nil {
				return fmt.Errorf("cut off in a table: %w", err)
			}
			continue
		}
		if value < next || value%h.Grain != 0 || value >= h.Capacity || size > 2*65536 {
			return fmt.Errorf("grain %d of %d bytes after %d", value, size, next)
		}
		next = value + h.Grain
		whole := make([]byte, (12+int(size)+sector-1)/sector*sector)
		copy(whole, first)
		if _, err := io.ReadFull(in, whole[sector:]); err != nil {
			return fmt.Errorf("cut off in a grain: %w", err)
		}
		packed, err := zlib.NewReader(bytes.NewReader(whole[12 : 12+size]))
		if err != nil {
			return err
		}
		data, err := io.ReadAll(packed)
		if err != nil || len(data) != 65536 {
			return fmt.Errorf("a grain holds %d bytes: %v", len(data), err)
		}
		at := int64(value) * sector
		if left := int64(h.Capacity)*sector - at; left < int64(len(data)) {
			data = data[:left]
		}
		if _, err := out.WriteAt(data, at); err != nil {
			return err
		}
	}
}
